"""Metrics of generated images from their features: ADM's, and those that say how far they can be trusted.

Conventions of ADM's evaluation (Dhariwal and Nichol 2021): the inception score over consecutive splits of 5,000 images;
precision and recall by the 3rd nearest neighbor (Kynkäänniemi et al. 2019), generated images against the reference.

torch-fidelity has IS, KID, precision and recall too. They are computed here because these functions work without that
extra, follow ADM's conventions exactly, stand beside sFID and FID at infinity, which it lacks, and are tested against
independent computations in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lina_lab.evaluation.moments import Gaussian, distances_to

Array = npt.NDArray[np.float64]

SPLIT_IMAGES = 5000
"""Images of a split of the inception score in ADM's evaluation; the last split may have fewer."""
SPLITS = 10
"""Splits of the inception score as Salimans et al. (2016) introduced it, whatever the number of images. torch-fidelity
shuffles the images before."""
NEIGHBOR = 3
"""The nearest neighbor whose distance is the radius of the manifold around an image."""
ROWS = 1024
"""Rows of which distances are computed together."""
KID_SUBSETS, KID_SIZE = 100, 1000
BOOTSTRAP_SAMPLES = 20
EXTRAPOLATED_IMAGES = 20
"""Fewest images that FID is extrapolated from."""
SIZES = 8
"""Sizes of subsets that FID is extrapolated from."""


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """FID at infinitely many images, without the bias of few (Chong and Forsyth 2020, arXiv 1911.07023)."""

    infinite: float
    """The intercept of the line through distances over 1/N."""
    slope: float
    """The slope of that line."""


def adm_splits(images: int) -> list[slice]:
    """The consecutive splits of ADM's evaluation: of 5,000 images, but for the last."""
    return [slice(start, start + SPLIT_IMAGES) for start in range(0, images, SPLIT_IMAGES)]


def equal_splits(images: int) -> list[slice]:
    """The ten consecutive splits of Salimans et al., as equal as can be.

    Raises:
        ValueError: there are fewer images than splits.
    """
    if images < SPLITS:
        raise ValueError(f"an inception score over {SPLITS} splits needs as many images, not {images}")
    return [slice(i * images // SPLITS, (i + 1) * images // SPLITS) for i in range(SPLITS)]


def inception_score(probabilities: Array, splits: Sequence[slice]) -> tuple[float, float]:
    """The inception score: `exp(E KL(p(y|x) || p(y)))`. It grows with the number of images in a split.

    Args:
        probabilities: [n, classes], in the order of the images.
        splits: what the score is computed on, by `adm_splits` or `equal_splits`.

    Returns:
        Mean and standard deviation over the splits; NaN is the deviation of one.

    Raises:
        ValueError: rows that are no probabilities.
    """
    if (probabilities < 0).any() or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-4):
        raise ValueError("the rows are not probabilities: they need to be positive and to sum to 1")
    scores = []
    for part in (np.asarray(probabilities[split], dtype=np.float64) for split in splits):
        marginal = part.mean(axis=0, keepdims=True)
        # 0 log 0 is 0.
        ratio = np.log(np.where(part > 0, part, 1)) - np.log(np.where(marginal > 0, marginal, 1))
        scores.append(float(np.exp((part * ratio).sum(axis=1).mean())))
    return float(np.mean(scores)), float(np.std(scores)) if len(scores) > 1 else nan


def precision_recall(reference: Tensor, generated: Tensor, neighbor: int = NEIGHBOR) -> tuple[float, float]:
    """Precision and recall of generated features [m, d] against reference features [n, d].

    Precision is the share of generated images that lie within the reference's manifold: closer to some reference image
    than that one's k-th nearest reference image. Recall is the share of reference images within the generated manifold.

    Raises:
        ValueError: a side has no k-th neighbor.
    """
    for name, features in (("reference", reference), ("generated", generated)):
        check_neighbors(name, len(features), neighbor)
    return _share_within(reference, generated, neighbor), _share_within(generated, reference, neighbor)


def check_neighbors(name: str, images: int, neighbor: int = NEIGHBOR) -> None:
    """Refuse so few images of a side that none has a k-th neighbor.

    Raises:
        ValueError: there are too few.
    """
    if images <= neighbor:
        raise ValueError(f"{images} {name} images have no {neighbor}rd nearest neighbor: more are needed")


def _share_within(manifold: Tensor, points: Tensor, neighbor: int) -> float:
    """The share of points within the manifold: the balls around its points, up to their k-th neighbors."""
    # The nearest is the point itself.
    rows = torch.split(manifold, ROWS)
    radii = torch.cat([_distances(each, manifold).kthvalue(neighbor + 1, dim=1).values for each in rows])
    inside = [(_distances(each, manifold) <= radii).any(dim=1) for each in torch.split(points, ROWS)]
    return float(torch.cat(inside).double().mean())


def _distances(rows: Tensor, others: Tensor) -> Tensor:
    return torch.cdist(rows.double(), others.double(), compute_mode="donot_use_mm_for_euclid_dist")


def kernel_distance(
    reference: Array, generated: Array, *, subsets: int = KID_SUBSETS, size: int = KID_SIZE, seed: int = 0
) -> tuple[float, float | None]:
    """KID: the unbiased squared MMD with the kernel `(x y / d + 1)^3` (Bińkowski et al. 2018).

    Args:
        reference: features [n, d].
        generated: features [m, d].
        subsets: how many random subsets it is computed on.
        size: images of a subset; fewer where a side has fewer.
        seed: of the subsets.

    Returns:
        Mean and standard deviation over the subsets; the deviation is None where a side has fewer than twice the images
        of a subset: subsets are then the same images, or largely so, and their deviation says nothing of the sampling.

    Raises:
        ValueError: fewer than two images on a side.
    """
    few = min(len(reference), len(generated))
    known, size = few >= 2 * size, min(size, few)
    if size < 2:
        raise ValueError("a kernel distance needs two images on each side")
    generator, values = np.random.default_rng(seed), []
    for _ in range(subsets):
        x = reference[generator.choice(len(reference), size, replace=False)]
        y = generated[generator.choice(len(generated), size, replace=False)]
        xx, yy, xy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
        within = sum((k.sum() - np.trace(k)) / (size * (size - 1)) for k in (xx, yy))
        values.append(within - 2 * xy.mean())
    return float(np.mean(values)), float(np.std(values)) if known else None


def _kernel(x: Array, y: Array) -> Array:
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)


def check_extrapolation(images: int) -> None:
    """Refuse so few images that the line through subsets of them is of no use.

    Raises:
        ValueError: there are too few.
    """
    if images < EXTRAPOLATED_IMAGES:
        raise ValueError(f"{images} images are too few to extrapolate from: {EXTRAPOLATED_IMAGES} are needed")


def extrapolate(reference: Gaussian, generated: Array, seed: int = 0) -> Extrapolation:
    """The Fréchet distance at infinitely many generated images, by a line in 1/N through random subsets.

    Raises:
        ValueError: fewer than 20 images.
    """
    check_extrapolation(len(generated))
    generator, distance = np.random.default_rng(seed), distances_to(reference)
    sizes = np.unique(np.linspace(len(generated) // 10, len(generated), SIZES + 1)[1:].astype(int))
    distances = [distance(generated[generator.choice(len(generated), n, replace=False)]) for n in sizes]
    slope, infinite = np.polyfit(1 / sizes, distances, 1)
    return Extrapolation(infinite=float(infinite), slope=float(slope))


def bootstrap_std(reference: Gaussian, generated: Array, samples: int = BOOTSTRAP_SAMPLES, seed: int = 0) -> float:
    """The bootstrap standard deviation of the Fréchet distance: generated images are resampled with replacement."""
    generator, distance = np.random.default_rng(seed), distances_to(reference)
    resampled = (generator.integers(len(generated), size=len(generated)) for _ in range(samples))
    return float(np.std([distance(generated[indices]) for indices in resampled], ddof=1))
