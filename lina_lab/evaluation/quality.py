"""All metrics of a set of generated images that its reference allows."""

from dataclasses import dataclass

import numpy as np
import torch

from lina_lab.evaluation.features import Features, Rows
from lina_lab.evaluation.metrics import (
    SPLITS,
    bootstrap_std,
    extrapolate,
    inception_score,
    kernel_distance,
    precision_recall,
)
from lina_lab.evaluation.moments import Gaussian, frechet_distance, moments_of

RECALL_IMAGES = 10_000
"""Reference images for precision and recall, the first ones: as many as ADM's evaluation takes."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The reference that generated images are compared with."""

    pool: Gaussian
    spatial: Gaussian | None
    images: Rows | None
    """Features [n, d] of its images; None where there are only stored statistics."""


def quality(generated: Features, reference: Reference) -> dict[str, float]:
    """Compute all metrics that features and reference allow.

    Returns:
        `images`, `fid`, `fid_std` (bootstrap standard deviation over the images) and `fid_inf`; with images of the
        reference `kid`, `kid_std` (where both sides have 2,000 images or more), `precision`, `recall` and
        `reference_images`; with Inception's features `sfid`, `inception_score` and `inception_score_std`.

    Raises:
        ValueError: there are too few images, or features have different widths.
    """
    rows = generated.pool.astype(np.float64)
    found = {
        "images": float(len(rows)),
        "fid": frechet_distance(reference.pool, moments_of(rows).gaussian),
        "fid_std": bootstrap_std(reference.pool, rows),
        "fid_inf": extrapolate(reference.pool, rows).infinite,
    }
    if reference.spatial is not None and generated.spatial is not None:
        found["sfid"] = frechet_distance(reference.spatial, moments_of(generated.spatial).gaussian)
    if generated.probabilities is not None and len(rows) >= SPLITS:
        found["inception_score"], found["inception_score_std"] = inception_score(generated.probabilities.astype(float))
    if reference.images is not None:
        others = reference.images.astype(np.float64)
        found["kid"], deviation = kernel_distance(others, rows)
        if deviation is not None:
            found["kid_std"] = deviation
        near = torch.from_numpy(reference.images[:RECALL_IMAGES]), torch.from_numpy(generated.pool)
        found["precision"], found["recall"] = precision_recall(*near)
        found["reference_images"] = float(len(others))
    return found
