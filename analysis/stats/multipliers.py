"""What one variant is worth in the resources of another: "X is worth m times the parameters (images, FLOPs) of Y".

Y would need m times the resource to reach X's loss. In parameters, m follows from the law in N with shared exponents
and is the same at every size. In images and FLOPs, m is at the largest size and its last checkpoint, from the law in N
and D; the FLOPs of an image differ between variants, and that counts.
"""

import itertools
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from .fit import Array
from .irreducible import LawNumber, SeedwiseLaw
from .pinned import PinnedFits


class Resource(StrEnum):
    """What a variant could be given more of."""

    PARAMETERS = "parameters"
    IMAGES = "images"
    FLOPS = "flops"


@dataclass(frozen=True, kw_only=True)
class Multiplier(LawNumber):
    """By which factor the baseline's resource must grow to reach the treatment's loss."""

    treatment: str
    baseline: str
    resource: Resource


def size_multipliers(shared: SeedwiseLaw) -> tuple[Multiplier, ...]:
    """Return what each variant is worth in parameters of each earlier one, from a law in N with shared exponents."""
    found = []
    for baseline, treatment in itertools.combinations(shared.variants, 2):

        def logarithm(fits: PinnedFits, treatment: str = treatment, baseline: str = baseline) -> Array:
            t, b = fits.variants.index(treatment), fits.variants.index(baseline)
            exponent = fits.exponent(baseline)
            # Without a fall of the loss no size reaches another loss.
            falling = np.where(exponent > 0, exponent, np.nan)
            return np.asarray((fits.logs[:, :, b, 0] - fits.logs[:, :, t, 0]) / falling)

        number = shared.number(logarithm, log=True)
        found.append(_multiplier(number, treatment, baseline, Resource.PARAMETERS))
    return tuple(found)


def training_multipliers(surface: SeedwiseLaw) -> tuple[Multiplier, ...]:
    """Return what each variant is worth in images and in FLOPs of each earlier one, from a law in N and D.

    Args:
        surface: a law in parameters and images. There are no multipliers in FLOPs if its points have no column `flops`.
    """
    points = surface.ladders.points
    size_column, data_column = surface.law.inputs
    size = float(points[size_column].max())
    largest = points[points[size_column] == size]
    images = float(largest.groupby("variant")[data_column].max().min())
    cost = None
    if "flops" in largest:
        cost = (largest["flops"] / largest[data_column]).groupby(largest["variant"]).mean()
    found = []
    for baseline, treatment in itertools.combinations(surface.variants, 2):

        def logarithm(fits: PinnedFits, treatment: str = treatment, baseline: str = baseline) -> Array:
            return _more_data(fits, treatment, baseline, size, images)

        found.append(_multiplier(surface.number(logarithm, log=True), treatment, baseline, Resource.IMAGES))
        if cost is not None:
            dearer = float(np.log(cost[baseline] / cost[treatment]))
            number = surface.number(lambda fits, shift=dearer, of=logarithm: of(fits) + shift, log=True)  # type: ignore[misc]
            found.append(_multiplier(number, treatment, baseline, Resource.FLOPS))
    return tuple(found)


def _more_data(fits: PinnedFits, treatment: str, baseline: str, size: float, data: float) -> Array:
    """Return log of the factor by which the baseline's data must grow; NaN where no amount suffices: [E, seeds]."""
    reached = np.exp(fits.log_terms(treatment, size, data)).sum(axis=2)
    own = fits.log_terms(baseline, size, data)
    left = reached - np.exp(own[..., 0])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(left > 0, (own[..., 1] - np.log(left)) / fits.exponent(baseline, 1), np.nan))


def _multiplier(number: LawNumber, treatment: str, baseline: str, resource: Resource) -> Multiplier:
    parts = {name: getattr(number, name) for name in ("pinned", "free", "at_low", "at_high")}
    return Multiplier(**parts, treatment=treatment, baseline=baseline, resource=resource)
