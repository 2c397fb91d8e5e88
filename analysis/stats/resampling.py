"""Intervals where runs, not seeds, are the unit: a bootstrap and a jackknife over runs.

A table of other people's runs has one run at most of its points, so a spread over seeds is not to be had. What another
set of runs at similar points would give is estimated from the runs themselves (Efron and Tibshirani 1993). The
bootstrap is for fits under a Huber loss, where a jackknife of medians fails; the jackknife is for least squares with
few runs at each budget, where a resample often has too few distinct sizes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from .seedwise import Estimate, without_interval

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Statistic = Callable[[Indices], Array]
"""Indices of the rows that count, some perhaps several times -> numbers; NaN for those that these rows do not give."""

RESAMPLES = 400
MAX_GROUPS = 300
"""With more runs than this in a stratum, the jackknife leaves out groups of runs in place of single ones."""
MAX_FAILED_SHARE = 0.2
"""There is no interval if more than this share of the resamples gives no number."""


def bootstrap(units: Sequence[object], statistic: Statistic, *, resamples: int = RESAMPLES, seed: int = 0) -> Array:
    """Evaluate numbers on resampled rows.

    Args:
        units: the unit, a run, of each row; the rows of a unit are drawn together.
        statistic: evaluated on each resample.
        resamples: how many.
        seed: seed of the resampling.

    Returns:
        [resamples, numbers]
    """
    members, generator = _members(units), np.random.default_rng(seed)
    drawn = (generator.integers(len(members), size=len(members)) for _ in range(resamples))
    return np.array([statistic(np.concatenate([members[index] for index in indices])) for indices in drawn])


def bootstrap_estimate(
    value: float, resampled: Array, freedom: int, level: float, *, units: int, log: bool = False
) -> Estimate:
    """Return a number with the interval of its bootstrap: standard errors times Student's t.

    Args:
        value: the number from all rows.
        resampled: the same number from resampled rows: [resamples].
        freedom: degrees of freedom, the units less the parameters that were fitted.
        level: confidence level.
        units: how many were resampled.
        log: whether errors are computed in the logarithm, as for a coefficient that spans decades.
    """
    kept = resampled[np.isfinite(resampled)]
    failed = 1 - len(kept) / len(resampled)
    if failed > MAX_FAILED_SHARE:
        return without_interval(value, units, f"{failed:.0%} of the refits to resampled runs failed", level)
    if log:
        kept = np.log(kept)
    return interval_of(value, float(kept.std(ddof=1)), freedom, level, units, log)


def jackknife(
    units: Sequence[object],
    strata: Sequence[object],
    statistic: Callable[[Indices], float],
    value: float,
    freedom: int,
    level: float,
) -> Estimate:
    """Return a number with the interval from leaving out one unit, or group of units, after the other.

    Args:
        units: the unit of each row.
        strata: the stratum of each row, a compute budget: its number of units is fixed by design.
        statistic: evaluated on the rows that are left.
        value: the number from all rows.
        freedom: degrees of freedom.
        level: confidence level.
    """
    rows, labels = np.arange(len(units)), np.asarray(strata)
    variance, count = 0.0, len(set(units))
    for label in dict.fromkeys(strata):
        inside = rows[labels == label]
        groups = _grouped([inside[index] for index in _members([units[row] for row in inside])])
        values = np.array([statistic(np.setdiff1d(rows, group)) for group in groups])
        variance += (len(groups) - 1) / len(groups) * float(((values - values.mean()) ** 2).sum())
    if not np.isfinite(variance):
        reason = "without one of the runs there is no such number"
        return without_interval(value, count, reason, level)
    return interval_of(value, float(np.sqrt(variance)), freedom, level, count)


def interval_of(value: float, error: float, freedom: int, level: float, units: int, log: bool = False) -> Estimate:
    """Return a number with the interval of a standard error, by Student's t; see `bootstrap_estimate`."""
    if not np.isfinite(error):
        return without_interval(value, units, "its standard error could not be estimated", level)
    if freedom < 1:
        return without_interval(value, units, "as many numbers are fitted as there are runs", level)
    reach = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    low, high = (value * np.exp(-reach), value * np.exp(reach)) if log else (value - reach, value + reach)
    return Estimate(value=value, low=float(low), high=float(high), level=level, seeds=units, reason="")


def _members(units: Sequence[object]) -> list[Indices]:
    """Return the indices of the rows of each unit."""
    _, codes = np.unique(np.asarray(units, dtype=str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    return [np.asarray(part, dtype=np.intp) for part in np.split(order, np.cumsum(np.bincount(codes))[:-1])]


def _grouped(members: list[Indices]) -> list[Indices]:
    if len(members) <= MAX_GROUPS:
        return members
    # Every MAX_GROUPS-th run: neighbors of a curve do not leave together.
    return [np.concatenate(members[start::MAX_GROUPS]) for start in range(MAX_GROUPS)]
