"""The irreducible loss E of a law by its profile, and numbers of the law with E pinned and with E free.

E and the exponents of a law trade off against each other. Whether losses flatten is therefore no matter of where a
search ends: at each value of E the law is fitted to each seed, and the derivative of its cost by E, the score, has the
mean 0 over seeds if E is true. Values at which Student's t does not tell the mean from 0 are inside the profile.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from .fit import Array, Points, prepared
from .identifiability import VALUES_FOR_IRREDUCIBLE_LOSS, not_identifiable
from .laws import ScalingLaw
from .pinned import PinnedFits, fit_pinned
from .seedwise import LEVEL, Estimate, Ladders, over_seeds, student, without_interval
from .status import Refusal

GRID = 17
"""Values of E that are tried at a time."""
ENOUGH = 8
"""Values that must be inside the profile before the search for its ends stops."""
ROUNDS = 4
TOP = 0.98
"""The largest E that is tried, as a share of the smallest loss."""
ZERO = 0.02
"""Where nothing above this share of the largest E tried is inside, E is taken for 0."""
NO_WHOLE_SEED = "no seed has every variant and size"

Statistic = Callable[[PinnedFits], Array]
"""Takes fits and returns a number for each value of E and seed: [E, seeds]."""


class EStatus(StrEnum):
    """What the losses say of E."""

    ONLY_ZERO = "only zero"
    """Nothing but 0, to the profile's resolution: the law without E."""
    IDENTIFIED = "identified"
    """More than 0."""
    UNDETERMINED = "undetermined"
    """0 and more are inside: numbers are ranges over E."""


@dataclass(frozen=True, kw_only=True)
class EProfile:
    """Which values of E the losses are compatible with."""

    low: float
    """Ends of the values inside."""
    high: float
    best: float
    """The value that fits best."""
    values: Array
    """Values that were tried, rising: [E]."""
    inside: NDArray[np.bool_]
    """Whether each of them is inside: [E]."""
    costs: Array
    """Cost of all seeds above its minimum: [E]."""
    status: EStatus
    level: float
    reason: str
    """Why E is undetermined whatever the losses are; empty where they decide."""


@dataclass(frozen=True, kw_only=True)
class LawNumber:
    """A number of a law, with E pinned and with E free."""

    pinned: Estimate
    """With E = 0."""
    free: Estimate
    """With E by its profile. Identified: E is fitted. Else, the interval holds every interval with E pinned at a value
    inside the profile, and the value is that at the best E."""
    at_low: float
    """The value at the smallest E inside the profile."""
    at_high: float
    """The value at the largest E inside the profile."""


@dataclass(frozen=True, kw_only=True)
class SeedwiseLaw:
    """A law that is fitted to each seed, with E decided by its profile."""

    law: ScalingLaw
    """The law with E."""
    refusal: Refusal | None
    """None for a law that is fitted."""
    reason: str
    """The refusal in a sentence; empty for a law that is fitted."""
    ladders: Ladders
    profile: EProfile | None
    """None where the law is refused."""
    fits: PinnedFits | None
    """Fits at each value of the profile; the first is at E = 0."""
    around: PinnedFits | None
    """Fits slightly below, at and above the best E."""

    @property
    def holds(self) -> bool:
        """Whether there is a fit."""
        return self.refusal is None

    @property
    def best(self) -> float:
        """The value of E that fits best."""
        assert self.profile is not None
        return self.profile.best

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that are fitted."""
        return () if self.fits is None else self.fits.variants

    def number(self, statistic: Statistic, *, log: bool = False) -> LawNumber:
        """Return a number of the law.

        Args:
            statistic: takes fits, such as `lambda fits: fits.exponent("a")`.
            log: it is a logarithm; the number is its exponential.
        """
        assert self.profile is not None
        assert self.fits is not None
        values, profile, seeds = statistic(self.fits), self.profile, self.ladders.seeds
        inside = np.flatnonzero(profile.inside)
        with np.errstate(invalid="ignore"):
            means = np.exp(values.mean(axis=1)) if log else values.mean(axis=1)
        pinned = over_seeds(values[0], level=profile.level, log=log, seeds=seeds)
        if profile.status is EStatus.IDENTIFIED:
            free = self._at_best(statistic, log=log)
        else:
            best = float(means[np.abs(profile.values - profile.best).argmin()])
            free = self._over_range(values[inside], best, log=log)
        return LawNumber(pinned=pinned, free=free, at_low=float(means[inside[0]]), at_high=float(means[inside[-1]]))

    def _at_best(self, statistic: Statistic, *, log: bool) -> Estimate:
        """Return a number with E fitted. A seed's value is what its own score says E and the number should be."""
        assert self.around is not None
        assert self.profile is not None
        below, at, above = statistic(self.around)
        width = self.around.values[2] - self.around.values[0]
        curvature = (self.around.scores[2] - self.around.scores[0]).mean() / width
        shifts = -(self.around.scores[1] - self.around.scores[1].mean()) / curvature
        slope = (above - below).mean() / width
        return over_seeds(at + slope * shifts, level=self.profile.level, log=log, seeds=self.ladders.seeds)

    def _over_range(self, values: Array, best: float, *, log: bool) -> Estimate:
        """Return the union of the intervals at every E inside [inside, seeds]."""
        assert self.profile is not None
        seeds, level = self.ladders.seeds, self.profile.level
        lacking = np.flatnonzero(np.isnan(values).any(axis=1))
        if len(lacking) or values.shape[1] < 2:
            row = values[lacking[0]] if len(lacking) else values[0]
            return without_interval(best, seeds, over_seeds(row, level=level, seeds=seeds).reason, level)
        means, reach = student(values, level)
        low, high = float((means - reach).min()), float((means + reach).max())
        low, high = (float(np.exp(low)), float(np.exp(high))) if log else (low, high)
        return Estimate(value=best, low=low, high=high, level=level, seeds=seeds)


def fit_ladders(ladders: Ladders, law: ScalingLaw, values: Sequence[float]) -> PinnedFits:
    """Fit a law without E to each seed, with E pinned at some values; see `pinned.fit_pinned`."""
    return fit_pinned(prepared(ladders.points, law), law, ladders.losses, np.array(values))


def fit_seedwise(ladders: Ladders, law: ScalingLaw, level: float = LEVEL) -> SeedwiseLaw:
    """Fit a law to each seed, at values of E over its profile.

    Args:
        ladders: the seeds.
        law: a law with E.
        level: confidence level.
    """
    rest = law.pinned()
    names = tuple(dict.fromkeys(ladders.points["variant"]))
    refusal = not_identifiable(ladders.points, rest, names) if names else (Refusal.NO_WHOLE_SEED, NO_WHOLE_SEED)
    if refusal is not None:
        code, reason = refusal
        return SeedwiseLaw(law=law, refusal=code, reason=reason, ladders=ladders, profile=None, fits=None, around=None)
    data, sizes = prepared(ladders.points, rest), ladders.points[law.inputs[0]].nunique()
    fits = _searched(data, rest, ladders.losses, level)
    profile = _profile(fits, sizes, ladders.seeds, level)
    step = 1e-3 * (float(ladders.losses.min()) - profile.best)
    beside = np.array([max(0.0, profile.best - step), profile.best, profile.best + step])
    around = fit_pinned(data, rest, ladders.losses, beside, fits.huber)
    return SeedwiseLaw(law=law, refusal=None, reason="", ladders=ladders, profile=profile, fits=fits, around=around)


def _searched(data: Points, law: ScalingLaw, losses: Array, level: float) -> PinnedFits:
    """Fit at a grid of E, which is refined where the profile is inside."""
    fits = fit_pinned(data, law, losses, np.linspace(0, TOP * losses.min(), GRID))
    for _ in range(ROUNDS):
        ratio = _ratios(fits, level)
        inside = np.flatnonzero((ratio <= 1) | (fits.costs.sum(axis=1) == fits.costs.sum(axis=1).min()))
        if len(inside) >= ENOUGH:
            break
        first, last = max(inside[0] - 1, 0), min(inside[-1] + 1, len(ratio) - 1)
        more = np.linspace(fits.values[first], fits.values[last], GRID)[1:-1]
        fits = fits.joined(fit_pinned(data, law, losses, np.setdiff1d(more, fits.values), fits.huber))
    return fits


def _ratios(fits: PinnedFits, level: float) -> Array:
    """Return how large the seeds' mean score is against what is inside: [E]; 0 for one seed."""
    seeds = fits.scores.shape[1]
    if seeds < 2:
        return np.zeros(len(fits.values))
    mean, reach = student(fits.scores, level)
    return np.asarray(np.abs(mean) / np.maximum(reach, 1e-300))


def _profile(fits: PinnedFits, sizes: int, seeds: int, level: float) -> EProfile:
    """Decide which values of E are inside."""
    values, costs, ratio = fits.values, fits.costs.sum(axis=1), _ratios(fits, level)
    lowest = int(costs.argmin())
    inside = ratio <= 1
    inside[lowest] = True
    first, last = np.flatnonzero(inside)[[0, -1]]
    low = float(values[0]) if first == 0 else _crossing(values, ratio, first, first - 1)
    high = float(values[-1]) if last == len(values) - 1 else _crossing(values, ratio, last, last + 1)
    reason, decided = "", False
    if len(fits.scores[0]) < 2:
        reason = "one seed, so nothing says which E the losses are compatible with"
    elif sizes < VALUES_FOR_IRREDUCIBLE_LOSS:
        reason = f"{sizes} sizes cannot tell E from a bend of the law; {VALUES_FOR_IRREDUCIBLE_LOSS} are needed"
        low = 0.0
    else:
        decided = True
    inside = (values >= low - 1e-12) & (values <= high + 1e-12)
    if low > 0:
        status = EStatus.IDENTIFIED
    elif high <= ZERO * values[-1] and decided:
        status = EStatus.ONLY_ZERO
    else:
        status = EStatus.UNDETERMINED
    return EProfile(
        low=low,
        high=high,
        best=_best(fits, lowest),
        values=values,
        inside=inside,
        costs=costs - costs.min(),
        status=status,
        level=level,
        reason=reason,
    )


def _crossing(values: Array, ratio: Array, inside: int, outside: int) -> float:
    """Return where the ratio passes 1 between two neighboring values."""
    if ratio[inside] >= 1:
        return float(values[inside])
    share = (1 - ratio[inside]) / (ratio[outside] - ratio[inside])
    return float(values[inside] + share * (values[outside] - values[inside]))


def _best(fits: PinnedFits, lowest: int) -> float:
    """Return where the mean score is zero beside the lowest cost of the grid."""
    scores = fits.scores.mean(axis=1)
    other = lowest + (1 if scores[lowest] < 0 else -1)
    if not 0 <= other < len(scores) or scores[lowest] * scores[other] >= 0:
        return float(fits.values[lowest])
    share = scores[lowest] / (scores[lowest] - scores[other])
    return float(fits.values[lowest] + share * (fits.values[other] - fits.values[lowest]))
