"""Student's t interval for few seeds, with a variance that other sizes share in, and a bound on what that may cost.

The variance of three seeds is a poor estimate, and other sizes say something about it. Yet sizes need not be equally
noisy. An empirical Bayes estimate (Smyth 2004, "Linear models and empirical Bayes methods for assessing differential
expression") keeps its error rate on average over sizes only: where one size has three times the noise of the next, its
own 95% intervals miss in 13 to 21% of studies. So the interval from the pooled variance is used within bounds around
the size's own interval. The lower bound keeps the error rate below `WORST` for normal differences, however the noise
varies with size: an interval that is never shorter than Student's at level `WORST` cannot miss more often.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import isnan, sqrt

import numpy as np
from scipy.special import stdtrit

from lina_lab.decisions.sequential import MeanInterval, mean_interval

FEW_SEEDS = 6
"""With this many seeds, a size's own variance is good enough."""
WORST = 0.06
"""Bound of the error rate of a 95% interval, for the noisiest size."""
LONGEST = 1.2
"""How much longer than a size's own interval it may be; where noise is equal, this brings the error rate to 0.04."""


def moderated_interval(values: Sequence[float], others: Iterable[Sequence[float]]) -> MeanInterval:
    """The 95% interval of a mean over few seeds.

    Args:
        values: one difference for each seed.
        others: differences of the same comparison at other sizes, from which the variance is estimated too.

    Returns:
        The interval; the plain one of `mean_interval` where it is NaN or `others` hold no two seeds of one size.
    """
    own = mean_interval(values)
    groups = [values, *(other for other in others if len(other) > 1)]
    if isnan(own.low) or len(groups) < 2:
        return own
    freedom = sum(len(group) - 1 for group in groups)
    variance = sum(float(np.var(group)) * len(group) for group in groups) / freedom
    pooled = float(stdtrit(freedom, 0.975)) * sqrt(variance / len(values))
    plain, own_freedom = own.high - own.value, len(values) - 1
    shortest = plain * float(stdtrit(own_freedom, 1 - WORST / 2) / stdtrit(own_freedom, 0.975))
    half = min(max(pooled, shortest), LONGEST * plain)
    return replace(own, low=own.value - half, high=own.value + half)


def interval_of_seeds(values: Sequence[float], others: Sequence[Sequence[float]]) -> tuple[MeanInterval, bool]:
    """The 95% interval of a mean over seeds that are looked at once, and whether other sizes share in its variance.

    Args:
        values: one difference for each seed.
        others: differences of the same comparison at other sizes.
    """
    shared = len(values) < FEW_SEEDS and any(len(other) > 1 for other in others)
    return (moderated_interval(values, others) if shared else mean_interval(values)), shared
