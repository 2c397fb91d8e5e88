"""All metrics of a set of generated images that its reference allows."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan

import numpy as np
import torch

from lina_lab.evaluation.features import Features, Rows
from lina_lab.evaluation.metrics import (
    SPLIT_IMAGES,
    SPLITS,
    adm_splits,
    bootstrap_std,
    check_extrapolation,
    check_neighbors,
    equal_splits,
    extrapolate,
    inception_score,
    kernel_distance,
    precision_recall,
)
from lina_lab.evaluation.moments import Gaussian, frechet_distance, moments_of

RECALL_IMAGES = 10_000
"""Reference images for precision and recall, the first ones: as many as ADM's evaluation takes."""


INCEPTION_SCORES = {
    "inception_score": f"ADM's rule (Dhariwal and Nichol 2021): consecutive splits of {SPLIT_IMAGES:,} images",
    "inception_score_10_splits": f"the rule of Salimans et al. 2016: {SPLITS} consecutive splits of equal size",
}
"""Metric -> the published rule for its splits. Both give the same number for 50,000 images."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The reference that generated images are compared with."""

    pool: Gaussian
    spatial: Gaussian | None
    images: Rows | None
    """Features [n, d] of its images; None where there are only stored statistics."""


def check_counts(generated: int, reference: int | None) -> None:
    """Refuse what `quality` would refuse, before features are computed.

    Args:
        generated: number of generated images.
        reference: number of images of the reference; None: it has only stored statistics.

    Raises:
        ValueError: there are too few images.
    """
    check_extrapolation(generated)
    if reference is not None:
        check_neighbors("reference", reference)


def quality(generated: Features, reference: Reference) -> dict[str, float]:
    """Compute all metrics that features and reference allow.

    Returns:
        `images`, `fid`, `fid_std` (bootstrap standard deviation over the images) and `fid_inf`; with images of the
        reference `kid`, `kid_std` (where both sides have 2,000 images or more), `precision`, `recall` and
        `reference_images`; with Inception's features `sfid`, and the inception score by the two rules of
        `INCEPTION_SCORES`, each with its `_std` where it has several splits.

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
    if generated.probabilities is not None:
        for name, splits in inception_splits(len(rows)).items():
            score, deviation = inception_score(generated.probabilities.astype(float), splits)
            found |= {name: score} | ({} if isnan(deviation) else {f"{name}_std": deviation})
    if reference.images is not None:
        others = reference.images.astype(np.float64)
        found["kid"], spread = kernel_distance(others, rows)
        if spread is not None:
            found["kid_std"] = spread
        near = torch.from_numpy(reference.images[:RECALL_IMAGES]), torch.from_numpy(generated.pool)
        found["precision"], found["recall"] = precision_recall(*near)
        found["reference_images"] = float(len(others))
    return found


def inception_splits(images: int) -> dict[str, list[slice]]:
    """The splits of each inception score that so many images allow."""
    adm, equal = INCEPTION_SCORES
    return {adm: adm_splits(images)} | ({equal: equal_splits(images)} if images >= SPLITS else {})


def rules(metrics: Mapping[str, float]) -> dict[str, str]:
    """The published rule of each metric that has several, with what this number of images makes of it."""
    found = {name: rule for name, rule in INCEPTION_SCORES.items() if name in metrics}
    images = int(metrics["images"])
    if "inception_score" in found and (last := images % SPLIT_IMAGES):
        short = f"here the last one has {last:,}" if images > SPLIT_IMAGES else f"here one of {last:,}"
        found["inception_score"] += f"; {short}, and fewer images score lower"
    return found
