"""Intervals of a mean over seeds that stay valid when one looks at the results again and again.

A study that adds seeds until its comparison is resolved looks at growing numbers of seeds. Student's t at 5% at every
look would be wrong far more often than 5%. Here the 5% are spent over the looks (Lan and DeMets 1983, "Discrete
sequential boundaries for clinical trials", with the power family of Kim and DeMets 1987), and the interval at each look
is a repeated confidence interval (Jennison and Turnbull 1989, "Interim analyses: the repeated confidence interval
approach"): all of them together cover the mean with the confidence asked for, whatever the rule for stopping.

As with a single Student's t, differences may have heavy tails and may not be strongly skewed: exponential ones, with
looks at 4, 6, ..., 16 seeds, are wrong in 14% instead of 5%. Variants that do not differ have symmetric differences.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import nan, pi, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

SPENDING_POWER = 2
"""After n of N seeds, (n / N) ** SPENDING_POWER of alpha is spent. 1 spends evenly; 3 is like O'Brien and Fleming."""
CELLS = 1200
"""Cells of the angle in the null distribution, from 0 to a right angle."""
TURNS = 300
"""Points of the integral over the turn that a new seed gives the angle."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MeanInterval:
    """A mean over seeds and its two-sided confidence interval."""

    value: float
    """The mean; NaN without a seed."""
    low: float
    """Lower end; NaN where there is no interval: fewer than two seeds, or seeds that agree exactly."""
    high: float
    """Upper end; NaN where `low` is."""
    level: float
    """Confidence of the interval, for example 0.95; of all looks together for a repeated interval."""
    seeds: int
    """Number of seeds."""


def looks(first: int, last: int, step: int) -> tuple[int, ...]:
    """The numbers of seeds at which a study looks at its results.

    Args:
        first: seeds at the first look.
        last: seeds at the last look; it is always one of the looks.
        step: seeds that are added between two looks.

    Raises:
        ValueError: a number is below 1, or `first` is above `last`.
    """
    if min(first, last, step) < 1 or first > last:
        raise ValueError(f"looks need 1 <= first <= last and step >= 1, not first={first}, last={last}, step={step}")
    return (*range(first, last, step), last)


def look_levels(looks: Sequence[int], alpha: float = 0.05) -> tuple[float, ...]:
    """The two-sided level of Student's t at each look, such that all looks together are wrong with probability alpha.

    After n of N seeds, alpha * (n / N)^2 is spent. The probabilities come from a numerical integration over the joint
    null distribution of the t statistics (as Armitage, McPherson and Rowe 1969 did for a known deviation). It is exact
    for normal differences of any deviation up to the grid's error, which is at most about 1% of a level.

    Args:
        looks: increasing numbers of seeds. A look at one seed gets level 0, since it has no t statistic.
        alpha: probability of a wrong verdict in the whole study, between 0 and 1.

    Returns:
        One level for each look. A single look has the level alpha.

    Raises:
        ValueError: the looks do not increase, start below 1 or are missing, or alpha is not between 0 and 1.
    """
    if not looks or looks[0] < 1 or any(b <= a for a, b in pairwise(looks)):
        raise ValueError(f"looks must be increasing numbers of seeds from 1, not {list(looks)}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, not {alpha}")
    return _levels(tuple(looks), alpha)


def mean_interval(values: Collection[float], confidence: float = 0.95) -> MeanInterval:
    """Student's t interval of a mean that is looked at once.

    Args:
        values: one number for each seed.
        confidence: probability that the interval covers the mean, between 0 and 1.

    Raises:
        ValueError: a value is not finite, or the confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    return _interval(values, 1 - confidence, confidence)


def sequential_interval(values: Collection[float], looks: Sequence[int], confidence: float = 0.95) -> MeanInterval:
    """The repeated confidence interval of a mean at one of several looks.

    Args:
        values: one number for each seed.
        looks: all looks that the study may take (see `looks`), past and future ones.
        confidence: probability that the intervals of all looks cover the mean, between 0 and 1.

    Returns:
        The interval at the level of the last look that has at most as many seeds as there are values. Seeds that lie
        between two looks, because some diverged, thus have the stricter level of the earlier look; below the first look
        the level is what is spent by then.

    Raises:
        ValueError: a value is not finite, the looks do not increase, or the confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    levels = look_levels(looks, 1 - confidence)
    reached = [level for count, level in zip(looks, levels, strict=True) if count <= len(values)]
    level = reached[-1] if reached else _spent(len(values), looks[-1], 1 - confidence)
    return _interval(values, level, confidence)


def _interval(values: Collection[float], level: float, confidence: float) -> MeanInterval:
    """The mean with Student's t interval at a two-sided level, which is printed as one of `confidence`."""
    numbers = np.array(list(values), dtype=float)
    if not np.isfinite(numbers).all():
        raise ValueError(f"a mean needs finite values, and {np.sum(~np.isfinite(numbers))} are not")
    seeds = len(numbers)
    if seeds == 0:
        return MeanInterval(nan, nan, nan, confidence, 0)
    mean = float(numbers.mean())
    # Seeds that agree to the last digits say nothing of the noise; an interval of no width would claim certainty.
    if seeds == 1 or np.ptp(numbers) <= 1e-12 * np.max(np.abs(numbers)) or level == 0:
        return MeanInterval(mean, nan, nan, confidence, seeds)
    half = float(stdtrit(seeds - 1, 1 - level / 2) * numbers.std(ddof=1) / sqrt(seeds))
    return MeanInterval(mean, mean - half, mean + half, confidence, seeds)


def _spent(seeds: int, last: int, alpha: float) -> float:
    """The part of alpha that may be used up after some of the last look's seeds."""
    return float(alpha * (seeds / last) ** SPENDING_POWER)


@lru_cache(maxsize=128)
def _levels(looks: tuple[int, ...], alpha: float) -> tuple[float, ...]:
    """See `look_levels`.

    The t statistic of n values is sqrt(n - 1) tan(w), where w is the angle between the vector of the values and the
    plane on which their sum is zero. Under the null hypothesis the directions are uniform, and the angle after another
    seed depends on the one before only: w is a Markov chain. `mass` is the distribution of abs(w) over cells, of the
    studies that have not stopped.
    """
    edges = np.linspace(0, pi / 2, CELLS + 1)
    levels: list[float] = []
    mass: Floats | None = None
    spent, before = 0.0, 0
    for seeds in looks:
        if seeds < 2:
            levels.append(0.0)
            continue
        goal = _spent(seeds, looks[-1], alpha)
        if mass is None:
            mass = -2 * np.diff(stdtr(seeds - 1, -sqrt(seeds - 1) * np.tan(edges)))
            level = goal
            boundary = float(np.arctan(stdtrit(seeds - 1, 1 - level / 2) / sqrt(seeds - 1)))
        else:
            for count in range(before, seeds):
                mass = _another_seed(mass, count)
            tail = np.append(np.cumsum(mass[::-1])[::-1], 0.0)  # tail[i]: mass beyond edges[i]
            reached = np.log(np.maximum(tail, 1e-300))
            boundary = float(np.interp(-np.log(goal - spent), -reached, edges))
            level = float(2 * stdtr(seeds - 1, -sqrt(seeds - 1) * np.tan(boundary)))
        levels.append(level)
        mass = mass * np.clip((boundary - edges[:-1]) / edges[1], 0, 1)
        spent, before = goal, seeds
    return tuple(levels)


def _another_seed(mass: Floats, seeds: int) -> Floats:
    """The distribution of abs(w) after one more seed.

    The new value turns the vector out of the space of the old ones by an angle whose density is cos(turn)^(seeds - 1).
    """
    width = pi / 2 / CELLS
    angle = (np.arange(CELLS) + 0.5) * width
    turn = (np.arange(TURNS) + 0.5) * (pi / TURNS) - pi / 2
    weight = np.cos(turn) ** (seeds - 1)
    held, likely = mass > 0, weight > 1e-14
    angle, mass, turn, weight = angle[held], mass[held], turn[likely], weight[likely] / weight.sum()
    sine = (sqrt(seeds) * np.sin(angle)[:, None] * np.cos(turn) + np.sin(turn)) / sqrt(seeds + 1)
    cell = np.arcsin(np.minimum(np.abs(sine), 1.0)) / width
    cells = np.minimum(cell.astype(np.intp), CELLS - 1)
    return np.bincount(cells.ravel(), (mass[:, None] * weight).ravel(), minlength=CELLS).astype(np.float64)
