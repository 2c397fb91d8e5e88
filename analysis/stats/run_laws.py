"""Laws of size and data for a table of runs, with the run, or the seed, as the unit of resampling.

Where the table has seeds, and at least two of them are whole ladders, each seed is fitted by itself and the interval is
Student's t over seeds. Otherwise runs are resampled, all checkpoints of a run together.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import pandas as pd

from .batch import Refits, refit
from .fit import Array, fit_law, prepared
from .laws import Fit, ScalingLaw, free_parameters
from .resampling import MAX_FAILED_SHARE, RESAMPLES, bootstrap_estimate, interval_of, resampled_weights
from .seedwise import Estimate, over_seeds, without_interval
from .status import FitStatus, Refusal

HELD_OUT_SHARE = 0.1
"""The largest sizes that together hold this share of the runs are left out, to test the law on them."""
AMOUNTS = (("A", "alpha"), ("B", "beta"))
"""Names of the coefficient and the exponent of each input."""
UNDETERMINED = "the interval of E includes 0, so the range is that of the laws with and without E"


class NumberStatus(StrEnum):
    """Whether a number may be used. A number that a fit does not give has the status of the fit (`FitStatus`)."""

    OK = "ok"
    NO_INTERVAL = "no interval"
    UNDETERMINED = "undetermined"
    """The interval is a range over laws that the points do not tell apart."""
    WARNING = "warning"
    """The number says that a law does not hold where it is used."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number for a report or a program."""

    estimate: Estimate
    status: NumberStatus | FitStatus

    @property
    def reason(self) -> str:
        """Why the status is not ok."""
        return self.estimate.reason


def number(estimate: Estimate) -> Number:
    """Return an estimate with the status that it has by itself."""
    known = np.isfinite(estimate.low)
    return Number(estimate=estimate, status=NumberStatus.OK if known else NumberStatus.NO_INTERVAL)


def no_number(status: FitStatus, reason: str, level: float) -> Number:
    """Return what stands in the place of a number that there is not."""
    return Number(estimate=without_interval(float("nan"), 0, reason, level), status=status)


@dataclass(frozen=True, kw_only=True)
class RunLaw:
    """A law of one variant."""

    fit: Fit
    numbers: dict[str, Number]
    """E, A, alpha, B, beta: those that the law has."""
    unit: str
    """What was resampled, in words; empty where the law does not hold."""

    @property
    def holds(self) -> bool:
        """Whether the law has numbers."""
        return bool(self.unit)


def seed_ladders(points: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the points of each seed that is a whole ladder; none unless there are two.

    Args:
        points: of one variant; `seed` where there are seeds, `N`, `D`, `flops`, `budget`.
    """
    if "seed" not in points:
        return []
    keys = [name for name in ("N", "D", "flops", "budget") if name in points]
    every = len(points.drop_duplicates(keys))
    whole = [group for _, group in points.groupby("seed") if len(group) == every]
    return whole if len(whole) > 1 else []


def fit_run_law(points: pd.DataFrame, law: ScalingLaw, *, huber: float | None, level: float) -> RunLaw:
    """Fit a law to the points of one variant.

    Args:
        points: `variant`, `run`, `loss` and the law's inputs; `seed` where there are seeds.
        law: the form, for one variant.
        huber: log residuals above this count linearly; None: follows the noise.
        level: confidence level.
    """
    found = fit_law(points, law, huber=huber)
    names = _names(law)
    # E at zero is no reason to believe that it is zero: its interval tells (see `with_range`).
    if found.refusal not in (None, Refusal.NO_IRREDUCIBLE_LOSS):
        return RunLaw(fit=found, numbers={n: no_number(found.status, found.reason, level) for n in names}, unit="")
    ladders, values = seed_ladders(points), _values(found)
    logs = [name in ("A", "B") for name in names]
    if ladders:
        each = np.array([_refitted(ladder, found) for ladder in ladders])
        each = np.where(logs, np.log(each), each)
        estimates = [over_seeds(each[:, i], len(ladders), log=log, level=level) for i, log in enumerate(logs)]
        unit = f"{len(ladders)} seeds, each fitted by itself"
    else:
        count = points["run"].nunique()
        freedom = count - free_parameters(law, 1)
        resampled = _resampled(_refits(points, found))
        estimates = [
            bootstrap_estimate(values[i], resampled[:, i], freedom, level, units=count, log=log)
            for i, log in enumerate(logs)
        ]
        unit = f"{count} runs, {len(resampled):,} resamples"
    # E cannot be negative, whatever its error.
    at = dict(zip(names, estimates, strict=True))
    if "E" in at:
        at["E"] = replace(at["E"], low=float(np.maximum(at["E"].low, 0.0)))
    return RunLaw(fit=found, numbers={name: number(estimate) for name, estimate in at.items()}, unit=unit)


def with_range(free: RunLaw, without: RunLaw) -> RunLaw:
    """Return a law with E whose numbers are ranges, if its E is not determined.

    Args:
        free: the law with E.
        without: the law without E, of the same points.
    """
    at = free.numbers.get("E")
    if at is None or not at.estimate.low <= 0 or without.fit.status is not FitStatus.OK:
        return free
    numbers = {"E": replace(at, status=NumberStatus.UNDETERMINED, estimate=replace(at.estimate, reason=UNDETERMINED))}
    for name, other in without.numbers.items():
        own, pinned = free.numbers[name].estimate, other.estimate
        ends = (own.low, pinned.low, pinned.value), (own.high, pinned.high, pinned.value)
        wide = replace(own, low=float(np.nanmin(ends[0])), high=float(np.nanmax(ends[1])), reason=UNDETERMINED)
        numbers[name] = Number(estimate=wide, status=NumberStatus.UNDETERMINED)
    return replace(free, numbers={name: numbers[name] for name in free.numbers})


def held_out(points: pd.DataFrame, law: ScalingLaw, *, huber: float | None, level: float) -> Number:
    """Return how far losses at the largest sizes are from a law that is fitted without them.

    The value is measured over predicted loss, less 1, as a mean over the runs left out: positive where the law promises
    too much. Its interval holds the uncertainty of the fit and the noise of the runs left out.
    """
    runs = points.groupby("size")["run"].nunique().sort_index(ascending=False)
    least = int((runs.cumsum() < HELD_OUT_SHARE * runs.sum()).sum()) + 1
    largest = list(runs.index[:least])
    out = points["size"].isin(largest)
    seen, unseen = points[~out].reset_index(drop=True), points[out]
    if seen.empty:
        return no_number(FitStatus.NOT_IDENTIFIABLE, "no size is left without the largest", level)
    found = fit_law(seen, law, huber=huber)
    if found.status is not FitStatus.OK:
        return no_number(found.status, f"without the largest sizes: {found.reason}", level)
    logs = np.log(unseen["loss"].to_numpy(float))

    inputs = unseen[list(law.inputs)].to_numpy(float)
    predicted = np.log([found.predict(found.variants[0], **row) for row in _rows(unseen, law)])
    means = (logs - _refits(seen, found).log_loss(inputs)).mean(axis=1)
    means = means[np.isfinite(means)]
    spread = means.std(ddof=1) if len(means) > (1 - MAX_FAILED_SHARE) * RESAMPLES else np.nan
    units = seen["run"].nunique()
    freedom = units - free_parameters(law, 1)
    noise = np.sqrt(np.sum(np.square(found.residuals)) / max(freedom, 1) / unseen["run"].nunique())
    logged = interval_of(float((logs - predicted).mean()), float(np.hypot(noise, spread)), freedom, level, units)
    estimate = replace(logged, value=np.expm1(logged.value), low=np.expm1(logged.low), high=np.expm1(logged.high))
    if not (estimate.low > 0 or estimate.high < 0):
        return number(estimate)
    where = f"{min(largest):.3g}" if len(largest) == 1 else f"{min(largest):.3g} to {max(largest):.3g}"
    reason = f"more than noise explains at N = {where}: do not extrapolate the law"
    return Number(estimate=replace(estimate, reason=reason), status=NumberStatus.WARNING)


def _names(law: ScalingLaw) -> list[str]:
    pairs = [name for pair in AMOUNTS[: len(law.inputs)] for name in pair]
    return ["E", *pairs] if law.irreducible_loss else pairs


def _values(found: Fit) -> list[float]:
    """Return the numbers of a fit of one variant, in the order of `_names`."""
    name = found.variants[0]
    pairs = zip(found.coefficients[name], found.exponents[name], strict=True)
    values = [value for pair in pairs for value in pair]
    return [found.irreducible_loss, *values] if found.law.irreducible_loss else values


def _refitted(points: pd.DataFrame, near: Fit) -> Array:
    """Return the numbers of the law refitted to other points; NaN where it does not hold."""
    data = prepared(points, near.law)
    return np.asarray(_resampled(refit(data, near, np.ones((1, len(data.loss)))))[0])


def _refits(points: pd.DataFrame, near: Fit) -> Refits:
    """Refit a law to resampled runs."""
    return refit(prepared(points, near.law), near, resampled_weights(list(points["run"])))


def _resampled(refits: Refits) -> Array:
    """Return the numbers of refits in the order of `_names`, NaN where they do not hold: [n, numbers].

    E at zero is a result here, not a reason to refit another law.
    """
    pairs = [part[:, i] for i in range(refits.logs.shape[1]) for part in (np.exp(refits.logs), refits.exponents)]
    columns = [refits.irreducible_loss, *pairs] if refits.has_constant else pairs
    return np.asarray(np.where(refits.holds[:, None], np.column_stack(columns), np.nan))


def _rows(points: pd.DataFrame, law: ScalingLaw) -> list[dict[str, float]]:
    return [
        {str(name): float(value) for name, value in row.items()} for row in points[list(law.inputs)].to_dict("records")
    ]
