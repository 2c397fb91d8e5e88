"""Intervals where runs, not seeds, are the unit: a bootstrap and a jackknife over runs.

A table of other people's runs has one run at most of its points, so a spread over seeds is not to be had. What another
set of runs at similar points would give is estimated from the runs themselves (Efron and Tibshirani 1993). The
bootstrap is for fits under a Huber loss, where a jackknife of medians fails; the jackknife is for least squares with
few runs at each budget, where a resample often has too few distinct sizes.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from .seedwise import Estimate, without_interval

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

RESAMPLES = 2000
MAX_GROUPS = 300
"""With more runs than this in a stratum, the jackknife leaves out groups of runs in place of single ones."""
MAX_FAILED_SHARE = 0.2
"""There is no interval if more than this share of the resamples gives no number."""


def resampled_weights(units: Sequence[object], *, resamples: int = RESAMPLES, seed: int = 0) -> Array:
    """Return how often each row is in each resample of the units.

    Args:
        units: the unit, a run, of each row; the rows of a unit are drawn together.
        resamples: how many.
        seed: seed of the resampling.

    Returns:
        [resamples, rows]
    """
    _, codes = np.unique(np.asarray(units, dtype=str), return_inverse=True)
    count = int(codes.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.asarray(drawn[:, codes], dtype=float)


def bootstrap_estimate(
    value: float, resampled: Array, freedom: int, level: float, *, units: int, log: bool = False
) -> Estimate:
    """Return a number with the interval of its bootstrap: standard errors times Student's t.

    Args:
        value: the number from all rows.
        resampled: the same number from resampled rows, NaN where there is none: [resamples].
        freedom: degrees of freedom, the units less the parameters that were fitted.
        level: confidence level.
        units: how many were resampled.
        log: whether errors are computed in the logarithm, as for a coefficient that spans decades.
    """
    kept = resampled[np.isfinite(resampled)]
    failed = 1 - len(kept) / len(resampled)
    if failed > MAX_FAILED_SHARE:
        return without_interval(value, units, f"{failed:.0%} of the refits to resampled runs failed", level)
    error = float((np.log(kept) if log else kept).std(ddof=1))
    return interval_of(value, error, freedom, level, units, log)


def left_out(units: Sequence[object], strata: Sequence[object]) -> list[list[Indices]]:
    """Return the rows of each unit, or group of units, that is left out, by stratum.

    Args:
        units: the unit of each row.
        strata: the stratum of each row, a compute budget: its number of units is fixed by design.
    """
    rows, labels = np.arange(len(units)), np.asarray(strata)
    found = []
    for label in dict.fromkeys(strata):
        inside = rows[labels == label]
        members = [inside[index] for index in _members([units[row] for row in inside])]
        found.append(_grouped(members))
    return found


def jackknife(
    rows: Sequence[Sequence[Indices]],
    values: Sequence[float],
    value: float,
    freedom: int,
    level: float,
    units: int,
    leverages: Array | None = None,
) -> Estimate:
    """Return a number with the interval of its jackknife.

    Args:
        rows: see `left_out`.
        values: the number without each of these, in their order; NaN where there is none.
        value: the number from all rows.
        freedom: degrees of freedom.
        level: confidence level.
        units: how many there are.
        leverages: leverage of each row, where the number is of least squares. Deviations are then weighted by 1 - h
            (Wu 1986), which is unbiased; without weights a row of high leverage counts too much.
    """
    variance, start = 0.0, 0
    for stratum in rows:
        each = np.array(values[start : start + len(stratum)])
        if leverages is None:
            variance += (len(each) - 1) / len(each) * float(((each - each.mean()) ** 2).sum())
        else:
            weights = np.array([1 - leverages[group].mean() for group in stratum])
            variance += float((weights * (each - value) ** 2).sum())
        start += len(stratum)
    if not np.isfinite(variance):
        return without_interval(value, units, "without one of the runs there is no such number", level)
    return interval_of(value, float(np.sqrt(variance)), freedom, level, units)


def interval_of(value: float, error: float, freedom: int, level: float, units: int, log: bool = False) -> Estimate:
    """Return a number with the interval of a standard error, by Student's t; see `bootstrap_estimate`."""
    if not np.isfinite(error):
        return without_interval(value, units, "its standard error could not be estimated", level)
    if freedom < 1:
        return without_interval(value, units, "as many numbers are fitted as there are runs", level)
    reach = float(stdtrit(freedom, (1 + level) / 2)) * error
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
