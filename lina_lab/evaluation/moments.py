"""Mean and covariance of features, computed in batches of any size, and the Fréchet distance between two of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import linalg

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Mean and covariance of features: what a Fréchet distance needs, and files of reference statistics hold."""

    mean: Array
    """[d]"""
    covariance: Array
    """[d, d]"""

    @cached_property
    def root(self) -> Array:
        """The covariance's symmetric square root [d, d]; kept, because it is costly and needed again and again."""
        values, vectors = linalg.eigh(self.covariance)
        return np.asarray((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Sums over features [n, d], which can be merged."""

    count: int
    """n"""
    mean: Array
    """[d]"""
    scatter: Array
    """Sum of outer products of deviations from the mean: [d, d]."""

    @property
    def gaussian(self) -> Gaussian:
        """Mean and unbiased covariance, as in ADM's evaluation.

        Raises:
            ValueError: there are fewer than two features.
        """
        if self.count < 2:
            raise ValueError("one image has no covariance: two are needed")
        return Gaussian(mean=self.mean, covariance=self.scatter / (self.count - 1))


def moments_of(features: npt.NDArray[np.floating]) -> Moments:
    """The moments of features [n, d], in float64.

    Raises:
        ValueError: the array has another shape, no rows, or numbers that are not finite.
    """
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or not len(values):
        raise ValueError(f"features need rows [n, d], not {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).any(axis=1).sum())} of {len(values)} features are not finite")
    mean = values.mean(axis=0)
    deviations = values - mean
    return Moments(count=len(values), mean=mean, scatter=deviations.T @ deviations)


def merged(parts: Iterable[Moments]) -> Moments:
    """The moments of all features together (Chan et al. 1979): the same however they were split.

    Raises:
        ValueError: there are no parts, or parts of different widths.
    """
    whole: Moments | None = None
    for part in parts:
        if whole is None:
            whole = part
            continue
        if part.mean.shape != whole.mean.shape:
            raise ValueError(f"features of {len(whole.mean)} and of {len(part.mean)} numbers do not belong together")
        count = whole.count + part.count
        gap = part.mean - whole.mean
        whole = Moments(
            count=count,
            mean=whole.mean + gap * (part.count / count),
            scatter=whole.scatter + part.scatter + np.outer(gap, gap) * (whole.count * part.count / count),
        )
    if whole is None:
        raise ValueError("there are no features")
    return whole


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """`|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))` (Heusel et al. 2017, equation 6).

    The trace of the root is the sum of the singular values of `C_a^(1/2) C_b^(1/2)`, which stays real and exact where
    covariances are singular, as those of few images are.

    Raises:
        ValueError: features of different widths.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {len(a.mean)} and of {len(b.mean)} numbers have no distance")
    cross = linalg.svdvals(a.root @ b.root).sum()
    gap = a.mean - b.mean
    return float(gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def distances_to(reference: Gaussian) -> Callable[[Array], float]:
    """A function from features [n, d] to their Fréchet distance to a reference; what calls share is done once."""
    root = reference.root

    def distance(rows: Array) -> float:
        mean = rows.mean(axis=0)
        deviations = (rows - mean) / np.sqrt(len(rows) - 1)
        if len(rows) <= rows.shape[1]:
            # The covariance of n images has rank n - 1: its root is not needed.
            cross, trace = linalg.svdvals(root @ deviations.T).sum(), (deviations**2).sum()
        else:
            covariance = deviations.T @ deviations
            cross = np.sqrt(np.clip(linalg.eigvalsh(root @ covariance @ root), 0, None)).sum()
            trace = np.trace(covariance)
        gap = mean - reference.mean
        return float(gap @ gap + np.trace(reference.covariance) + trace - 2 * cross)

    return distance
