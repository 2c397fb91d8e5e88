"""The best value of a tuned field, and how much loss the choice may give away.

Near its minimum a loss is close to a parabola in the logarithm of the learning rate, somewhat steeper on the side where
training diverges. The minimum of a curve through the best values tried is a better choice than any of them, and the
noise of the losses says how far off it may be.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf, isfinite, isnan, log, nan, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from lina_lab.decisions.sequential import MeanInterval

NEIGHBORS = 2
"""Values on each side of the best one that the curve is fitted to."""
RATIO = 2
"""Values that lie closer than this ratio: the curve is fitted to all that `NEIGHBORS` would reach in a grid of it."""
HIGHER = (1 / 3, 1 / 12)
"""Typical cubic and quartic coefficient of the curve relative to its quadratic one, for natural logarithms: those of
exp(x) - x. Without them the minimum of a curve that is steeper on one side is misplaced, and the bound on the regret
fails."""
DIGITS = 3
"""Significant digits of a chosen value, where that is enough."""

Direction = Literal["minimize", "maximize"]
Floats = NDArray[np.float64]


class ChoiceStatus(StrEnum):
    """Whether a value could be chosen."""

    OK = "ok"
    EDGE_LOW = "edge_low"
    """The best value is the smallest one tried: a smaller one may be better."""
    EDGE_HIGH = "edge_high"
    """The best value is the largest one tried: a larger one may be better."""
    NO_MINIMUM = "no_minimum"
    """All values diverged, or all are equally good."""
    INCOMPLETE = "incomplete"
    """A value has no loss yet, or no value has the losses of all seeds."""


@dataclass(frozen=True)
class Choice:
    """The chosen value of a tuned field for one variant and size."""

    value: float | None
    """The value to train with if the status is ok; at an edge the best value tried; otherwise None."""
    status: ChoiceStatus
    curvature: float = nan
    """Near the minimum, loss = minimum + curvature * (log value - log best)^2, with natural logarithms; NaN where no
    curve was fitted. It is negative where the objective is maximized."""
    log_deviation: float = nan
    """Standard error of the logarithm of the value, by the delta method; NaN where it cannot be estimated."""
    regret: float = nan
    """Upper 95% bound of what the value may be worse than the best one between the values tried nearby, in units of the
    objective and not negative; NaN where it cannot be estimated: one seed and three values or fewer."""
    seeds: int = 0
    """Seeds of the best value tried."""


@dataclass(frozen=True)
class Noise:
    """Noise of one training over seeds, when what all values of a seed share is taken off."""

    squares: float
    """Sum of squared residuals."""
    freedom: int
    """Their degrees of freedom."""

    @property
    def deviation(self) -> float:
        """The standard deviation; NaN without degrees of freedom."""
        return sqrt(self.squares / self.freedom) if self.freedom > 0 else nan


def choose_all(
    tables: Sequence[Mapping[float, Sequence[float]]],
    direction: Direction = "minimize",
    kept: Sequence[float | None] = (),
    kinds: Sequence[Hashable] = (),
) -> list[Choice]:
    """Choose for several variants and sizes, see `choose`, with the noise pooled over those of one kind.

    Each has few seeds, so its own estimate of the noise is poor, and its regret wide. Variants are trained on the same
    data for as long, which makes their noise alike, unless their losses are of different kinds.

    Args:
        tables: the losses of each.
        direction: whether small or large objectives are good.
        kept: the value that each was chosen before, and is trained with; None: it is chosen now. Empty: all are.
        kinds: the kind of each one's losses, such as the task. Empty: all are of one kind.
    """
    own = [_noise(*_table(losses, direction)) for losses in tables]
    kept, kinds = kept or [None] * len(tables), kinds or [None] * len(tables)
    noises: dict[Hashable, Noise | None] = {}
    for kind in set(kinds):
        alike = [noise for noise, other in zip(own, kinds, strict=True) if other == kind]
        pooled = Noise(sum(one.squares for one in alike), sum(one.freedom for one in alike))
        noises[kind] = pooled if pooled.freedom > 0 else None
    return [
        choose(losses, direction, noises[kind], value) for losses, value, kind in zip(tables, kept, kinds, strict=True)
    ]


def choose(
    losses: Mapping[float, Sequence[float]],
    direction: Direction = "minimize",
    noise: Noise | None = None,
    kept: float | None = None,
) -> Choice:
    """Choose the value of a tuned field.

    The best value tried is the one with the smallest mean over seeds. Through it and its neighbors, two on each side, a
    parabola in the logarithm of the value is fitted by least squares, with an offset for each seed, since seeds are
    paired, and higher powers that are held near zero (`HIGHER`). The choice is the curve's minimum between the two next
    neighbors, with three significant digits. Where a next neighbor diverged or the parabola opens downwards, the best
    value tried is taken as it is.

    The regret is the largest margin by which another place in the fitted range may be better: the fitted difference and
    its 95% margin of error, by Student's t with the residuals' degrees of freedom. For a well determined curve this is
    curvature * (t * log_deviation)^2.

    Args:
        losses: value -> objective of each seed, in the same order of the seeds for every value. Infinite: diverged,
            which is worse than any number in either direction. NaN: not trained, for example given up by racing; such a
            value is compared on the seeds that it has, and cannot be the best.
        direction: whether small or large objectives are good.
        noise: noise of the losses; None: it is estimated from them.
        kept: value to take instead of the curve's minimum, because it is trained with; None: the minimum.

    Raises:
        ValueError: fewer than two values, values that are not positive and finite, or values with different numbers of
            seeds.
    """
    values, table = _table(losses, direction)
    if np.isnan(table).all(axis=1).any() or not (complete := ~np.isnan(table).any(axis=1)).any():
        return Choice(None, ChoiceStatus.INCOMPLETE)
    means = np.where(complete, table.mean(axis=1), inf)
    best, seeds = int(np.argmin(means)), table.shape[1]
    if not isfinite(means[best]) or (complete.all() and np.ptp(means) == 0):
        return Choice(None, ChoiceStatus.NO_MINIMUM, seeds=seeds)
    tried = float(values[best])
    if best in (0, len(values) - 1):
        status = ChoiceStatus.EDGE_LOW if best == 0 else ChoiceStatus.EDGE_HIGH
        return Choice(tried, status, seeds=seeds)
    choice = _minimum(values, table, best, noise, kept) or Choice(
        tried, ChoiceStatus.OK, regret=_tried_regret(table, best)
    )
    curvature = choice.curvature if direction == "minimize" else -choice.curvature
    return replace(choice, curvature=curvature, seeds=seeds)


def extended(values: Sequence[float], status: ChoiceStatus) -> float:
    """The value by which a grid grows at an edge where its best value lies, at the ratio of the last two values there.

    Args:
        values: at least two different positive values, in any order.
        status: `edge_low` or `edge_high`.

    Raises:
        ValueError: fewer than two different values, one that is not positive, or another status.
    """
    ordered = sorted(set(values))
    if len(ordered) < 2 or not ordered[0] > 0 or not isfinite(ordered[-1]):
        raise ValueError(f"a grid grows from two or more positive values, not {list(values)}")
    if status is ChoiceStatus.EDGE_LOW:
        return rounded(ordered[0] ** 2 / ordered[1])
    if status is ChoiceStatus.EDGE_HIGH:
        return rounded(ordered[-1] ** 2 / ordered[-2])
    raise ValueError(f"a grid grows at an edge, and the status is {status}")


def widened(
    interval: MeanInterval, regret_treatment: float, regret_baseline: float, direction: Direction = "minimize"
) -> MeanInterval:
    """The interval of a difference between variants at their own best values, rather than at the chosen ones.

    The treatment may be better than it is at its chosen value by its regret, and the baseline by its own.

    Args:
        interval: interval of treatment minus baseline at the chosen values.
        regret_treatment: `Choice.regret` of the treatment; of a contrast, the sum over the terms with positive weights,
            each times its weight. NaN counts as 0, so leave NaN out of a sum.
        regret_baseline: the same of the baseline, or of the terms with negative weights.
        direction: that of the objective.

    Raises:
        ValueError: a regret is negative.
    """
    if regret_treatment < 0 or regret_baseline < 0:
        raise ValueError(f"a regret must not be negative, not {min(regret_treatment, regret_baseline)}")
    treatment, baseline = (0.0 if isnan(regret) else regret for regret in (regret_treatment, regret_baseline))
    below, above = (treatment, baseline) if direction == "minimize" else (baseline, treatment)
    return replace(interval, low=interval.low - below, high=interval.high + above)


def _table(losses: Mapping[float, Sequence[float]], direction: Direction) -> tuple[Floats, Floats]:
    """Increasing values, and losses of shape (values, seeds) of which small ones are good."""
    values = np.array(sorted(losses), dtype=float)
    if len(values) < 2 or not (np.isfinite(values).all() and values[0] > 0):
        raise ValueError(f"a choice needs two or more values, positive and finite, not {sorted(losses)}")
    counts = {len(seeds) for seeds in losses.values()}
    if len(counts) > 1:
        raise ValueError(f"every value needs the same seeds (NaN where one is missing), not {sorted(counts)} of them")
    table = np.array([losses[value] for value in sorted(losses)], dtype=float).reshape(len(values), -1)
    table = np.where(np.isinf(table), inf, table if direction == "minimize" else -table)
    if table.shape[1] == 0:
        table = np.full((len(values), 1), nan)
    return values, table


def _near(values: Floats, table: Floats, best: int) -> tuple[Floats, Floats] | None:
    """Logarithms of the values that the curve is fitted to, and their losses; None if a next neighbor diverged."""
    if np.isinf(table[best - 1 : best + 2]).any():
        return None
    x = np.log(values / values[best])
    near = (np.abs(np.arange(len(x)) - best) <= NEIGHBORS) | (np.abs(x) <= NEIGHBORS * log(RATIO) + 1e-9)
    near &= ~np.isinf(table).any(axis=1)
    return x[near], table[near]


def _noise(values: Floats, table: Floats) -> Noise:
    """The noise around a curve through the best value and its neighbors; none where they allow no curve."""
    means = np.where(np.isnan(table).any(axis=1), inf, table.mean(axis=1))
    best = int(np.argmin(means))
    near = None if best in (0, len(values) - 1) else _near(values, table, best)
    return Noise(0.0, 0) if near is None else _residuals(*near)


def _residuals(x: Floats, table: Floats) -> Noise:
    """The noise from a cubic curve where it leaves residuals, so that skewness does not count as noise."""
    point, seed = np.nonzero(~np.isnan(table))
    loss = table[point, seed]
    offsets = (seed[:, None] == np.arange(table.shape[1])).astype(float)
    powers = 3 if len(x) > 3 and len(loss) > 3 + table.shape[1] else 2
    design = np.column_stack([_powers(x[point])[:, :powers], offsets])
    residuals = loss - design @ np.linalg.lstsq(design, loss, rcond=None)[0]
    return Noise(float(residuals @ residuals), max(0, len(loss) - design.shape[1]))


def _minimum(values: Floats, table: Floats, best: int, noise: Noise | None, kept: float | None) -> Choice | None:
    """The choice by the fitted curve; None if a next neighbor diverged or the parabola opens downwards."""
    near = _near(values, table, best)
    curve = None if near is None else _fitted(*near, noise)
    if near is None or curve is None:
        return None
    x = np.log(values / values[best])
    lowest, highest = float(near[0][0]), float(near[0][-1])
    places = np.linspace(max(lowest, min(x[best - 1], -log(RATIO))), min(highest, max(x[best + 1], log(RATIO))), 1001)
    minimum, *ends = values[best] * np.exp([places[np.argmin(_powers(places) @ curve.coefficients)], *places[[0, -1]]])
    value = kept or rounded(minimum, *ends)
    chosen = log(value / values[best])
    slope = np.array([1.0, 2 * chosen, 3 * chosen**2, 4 * chosen**3])
    curvature = float(np.array([0.0, 1.0, 3 * chosen, 6 * chosen**2]) @ curve.coefficients)
    log_deviation = sqrt(slope @ curve.covariance @ slope) / (2 * curvature) if curvature > 0 else nan
    gaps = _powers(np.linspace(lowest, highest, 201)) - _powers(np.array([chosen]))
    margins = curve.quantile * np.sqrt(np.einsum("ij,jk,ik->i", gaps, curve.covariance, gaps))
    regret = float(np.max(margins - gaps @ curve.coefficients))
    return Choice(value, ChoiceStatus.OK, curvature, log_deviation, max(regret, 0.0) if isfinite(regret) else nan)


@dataclass(frozen=True)
class _Curve:
    coefficients: Floats
    """Of x, x^2, x^3 and x^4."""
    covariance: Floats
    """Of the coefficients; NaN without degrees of freedom."""
    quantile: float
    """Of Student's t for a two-sided 95%."""


def _fitted(x: Floats, table: Floats, noise: Noise | None) -> _Curve | None:
    """Fit a parabola with small higher powers to losses (values, seeds), NaN where missing; None if it opens down."""
    point, seed = np.nonzero(~np.isnan(table))
    loss = table[point, seed]
    offsets = (seed[:, None] == np.arange(table.shape[1])).astype(float)
    parabola = np.column_stack([_powers(x[point])[:, :2], offsets])
    plain = np.linalg.lstsq(parabola, loss, rcond=None)[0]
    if plain[1] <= 0:
        return None
    noise = noise or _residuals(x, table)
    if noise.freedom < 1:
        return _Curve(np.array([plain[0], plain[1], 0.0, 0.0]), np.full((4, 4), nan), nan)
    deviation = max(noise.deviation, 1e-9 * float(np.ptp(loss)))
    # Normal priors of the higher powers, as two more observations of the value 0.
    design = np.column_stack([_powers(x[point]), offsets])
    priors = np.zeros((2, design.shape[1]))
    priors[[0, 1], [2, 3]] = deviation / (np.array(HIGHER) * plain[1])
    rows = np.vstack([design, priors])
    coefficients = np.linalg.lstsq(rows, np.append(loss, [0.0, 0.0]), rcond=None)[0]
    covariance = deviation**2 * np.linalg.pinv(rows.T @ rows)
    return _Curve(coefficients[:4], covariance[:4, :4], float(stdtrit(noise.freedom, 0.975)))


def _powers(x: Floats) -> Floats:
    return np.column_stack([x, x**2, x**3, x**4])


def _tried_regret(table: Floats, best: int) -> float:
    """Upper bound of what the best value tried may be worse than a neighbor tried, from paired differences."""
    near = table[max(0, best - NEIGHBORS) : best + NEIGHBORS + 1]
    near = near[~np.isinf(near).any(axis=1)]
    near = near[:, ~np.isnan(near).any(axis=0)]
    freedom = (near.shape[0] - 1) * (near.shape[1] - 1)
    if freedom < 1:
        return nan
    means = near.mean(axis=1)
    noise = near - means[:, None] - near.mean(axis=0) + near.mean()
    margin = stdtrit(freedom, 0.975) * sqrt(2 * np.sum(noise**2) / freedom / near.shape[1])
    return float(max(0.0, margin - (np.partition(means, 1)[1] - means.min())))


def rounded(value: float, low: float = 0.0, high: float = inf) -> float:
    """A value with three significant digits, or as many more as keep it between two others: 0.9998 is not 1."""
    digits = DIGITS
    while not low * (1 - 1e-9) <= (found := float(f"{value:.{digits}g}")) <= high * (1 + 1e-9):
        digits += 1
    return found
