"""The best value of a tuned field, and how much loss the choice may give away.

Near its minimum a loss is close to a parabola in the logarithm of the learning rate. The vertex of the parabola through
the best values tried is a better choice than any of them, and the noise of the losses says how far off it may be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import exp, inf, isfinite, log, nan, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from lina_lab.decisions.sequential import MeanInterval

NEIGHBORS = 2
"""Values on each side of the best one that the parabola is fitted to."""
DIGITS = 3
"""Significant digits of a chosen value."""

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
    """Loss = minimum + curvature * (log value - log best)^2, natural logarithm; NaN where no parabola was fitted. It is
    negative where the objective is maximized."""
    log_deviation: float = nan
    """Standard error of the logarithm of the value, by the delta method; NaN where it cannot be estimated."""
    regret: float = nan
    """Upper 95% bound of what the value may be worse than the best one between the values tried nearby, in units of the
    objective and not negative; NaN where it cannot be estimated: one seed and three values or fewer."""
    seeds: int = 0
    """Seeds of the best value tried."""


def choose(losses: Mapping[float, Sequence[float]], direction: Direction = "minimize") -> Choice:
    """Choose the value of a tuned field.

    The best value tried is the one with the smallest mean over seeds. Through it and its neighbors, two on each side, a
    parabola in the logarithm of the value is fitted to all seeds; the choice is its vertex, between the two next
    neighbors, with three significant digits. Where a next neighbor diverged or the parabola opens downwards, the best
    value tried is taken as it is.

    Args:
        losses: value -> objective of each seed, in the same order of the seeds for every value. Infinite: diverged,
            which is worse than any number in either direction. NaN: not trained, for example given up by racing; such a
            value is compared on the seeds that it has, and cannot be the best.
        direction: whether small or large objectives are good.

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
    choice = _vertex(values, table, best) or Choice(tried, ChoiceStatus.OK, regret=_tried_regret(table, best))
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
        return _rounded(ordered[0] ** 2 / ordered[1])
    if status is ChoiceStatus.EDGE_HIGH:
        return _rounded(ordered[-1] ** 2 / ordered[-2])
    raise ValueError(f"a grid grows at an edge, and the status is {status}")


def widened(
    interval: MeanInterval, regret_treatment: float, regret_baseline: float, direction: Direction = "minimize"
) -> MeanInterval:
    """The interval of a difference between variants at their own best values, rather than at the chosen ones.

    The treatment may be better than it is at its chosen value by its regret, and the baseline by its own.

    Args:
        interval: interval of treatment minus baseline at the chosen values.
        regret_treatment: `Choice.regret` of the treatment; of a contrast, the sum over the terms with positive weights,
            each times its weight. NaN counts as 0.
        regret_baseline: the same of the baseline, or of the terms with negative weights.
        direction: that of the objective.

    Raises:
        ValueError: a regret is negative.
    """
    if regret_treatment < 0 or regret_baseline < 0:
        raise ValueError(f"a regret must not be negative, not {min(regret_treatment, regret_baseline)}")
    treatment, baseline = float(np.nan_to_num(regret_treatment)), float(np.nan_to_num(regret_baseline))
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


def _vertex(values: Floats, table: Floats, best: int) -> Choice | None:
    """The choice by the parabola; None if a next neighbor diverged or the parabola has no minimum."""
    near = range(max(0, best - NEIGHBORS), min(len(values), best + NEIGHBORS + 1))
    x = np.log(values / values[best])
    pairs = table - table[best]  # paired by seed: what is common to a seed's losses cancels
    height = np.array([np.nanmean(pairs[i]) for i in range(len(values))])
    if not (isfinite(height[best - 1]) and isfinite(height[best + 1])):
        return None
    used = [i for i in near if isfinite(height[i])]
    design = np.column_stack([x[used], x[used] ** 2, np.ones(len(used))])
    slope, curvature, _ = np.linalg.lstsq(design, height[used], rcond=None)[0]
    if curvature <= 0:
        return None
    x_vertex = float(np.clip(-slope / (2 * curvature), x[best - 1], x[best + 1]))
    value = _rounded(values[best] * exp(x_vertex))
    x_vertex = log(value / values[best])
    covariance, freedom = _covariance(design, table[used])
    if freedom == 0:
        return Choice(value, ChoiceStatus.OK, float(curvature))
    turn = np.array([1.0, 2 * x_vertex]) / (2 * curvature)
    log_deviation = sqrt(turn @ covariance @ turn)
    # By how much the vertex may be worse than any other place: the fitted difference and its margin of error.
    place = np.linspace(x[used[0]], x[used[-1]], 201)
    gap = np.column_stack([place - x_vertex, place**2 - x_vertex**2])
    margin = stdtrit(freedom, 0.975) * np.sqrt(np.einsum("ij,jk,ik->i", gap, covariance, gap))
    regret = float(np.max(margin - gap @ [slope, curvature]))
    return Choice(value, ChoiceStatus.OK, float(curvature), log_deviation, max(regret, 0.0))


def _covariance(design: Floats, table: Floats) -> tuple[Floats, int]:
    """Covariance of slope and curvature, and its degrees of freedom, from residuals after each seed's own offset."""
    present = ~np.isnan(table)
    whole = table[:, present.all(axis=0)]  # seeds that have every value
    points, seeds = whole.shape
    freedom = max(0, points * seeds - seeds - 2)
    if freedom == 0:
        return np.full((2, 2), nan), 0
    centered = whole - whole.mean(axis=0)
    slopes = design[:, :2] - design[:, :2].mean(axis=0)
    fitted = slopes @ np.linalg.lstsq(slopes, centered.mean(axis=1), rcond=None)[0]
    variance = float(np.sum((centered - fitted[:, None]) ** 2)) / freedom
    return variance / seeds * np.linalg.inv(slopes.T @ slopes), freedom


def _tried_regret(table: Floats, best: int) -> float:
    """Upper bound of what the best value tried may be worse than another one tried, from paired differences."""
    bounds = [0.0]
    for row in np.delete(table, best, axis=0):
        pairs = (row - table[best])[np.isfinite(row - table[best])]
        if len(pairs) > 1:
            margin = stdtrit(len(pairs) - 1, 0.975) * np.std(pairs, ddof=1) / sqrt(len(pairs))
            bounds.append(float(margin - np.mean(pairs)))
    return max(bounds) if len(bounds) > 1 else nan


def _rounded(value: float) -> float:
    """A value with three significant digits."""
    return float(f"{value:.{DIGITS}g}")
