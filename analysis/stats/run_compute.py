"""Loss against compute for a table of runs: best sizes at the table's budgets, or where curves of sizes cross budgets.

With budgets, a parabola is fitted to the runs of each, and the frontier is the law of the optima's losses. Without, the
losses of each size are interpolated along its FLOPs, as for a study's checkpoints. Exponents have intervals over seeds
where the table has whole seeds, else by leaving out runs in turn, within their budget where there are budgets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from .batch import refit
from .compute import BUDGETS, FRONTIER, at_budgets, common_budgets, exponent_at, frontier_law, unbeaten
from .fit import Array, fit_law, prepared
from .identifiability import refused
from .isoflop import MIN_BUDGETS, MIN_SIZES, growth, leverages, optima, optima_at
from .laws import Fit, free_parameters
from .resampling import bootstrap_estimate, jackknife, left_out, resampled_weights
from .run_laws import Number, no_number, number, seed_ladders
from .seedwise import Estimate, over_seeds
from .status import FitStatus, Refusal

SAME_BUDGET = 1.05
"""FLOPs within this factor are one budget, where the table has FLOPs and no budgets."""
SHARE_IN_BUDGETS = 0.8
"""FLOPs are budgets if at least this share of the points lies at those that `MIN_SIZES` sizes have."""
PARABOLA = 3
"""Numbers that a parabola has."""
NO_DATA = "the table has no amounts of data"

Statistic = Callable[[Sequence[pd.DataFrame]], Array]
"""Tables of other runs -> a number from each, NaN where there is none."""


@dataclass(frozen=True, kw_only=True)
class RunCompute:
    """Loss against compute of one variant."""

    points: pd.DataFrame
    """`variant`, `run`, `size`, `N`, `flops`, `loss`, `frontier` (whether no other point has a loss as low with as few
    FLOPs), and `D` where it is known."""
    given: bool
    """Whether the budgets are the table's own; else curves are interpolated."""
    slices: pd.DataFrame
    """Losses at the budgets: `flops` (the budget), `size`, `N`, `loss`, and `D` where it is known."""
    optima: pd.DataFrame
    """Best sizes: see `isoflop.optima`."""
    best_size: Number
    """Exponent a of `N_best ~ C^a`."""
    best_data: Number
    """Exponent b of `D_best ~ C^b`."""
    frontier: Fit
    """Law of the lowest loss in FLOPs."""
    frontier_exponent: Number
    reason: str
    """Why sizes cannot be compared at equal FLOPs; empty where they can."""


def with_flops(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points with `flops`: the table's own, its budgets, or 6 N D; without, where it has none of them."""
    if "flops" in points:
        return points
    if "budget" in points:
        return points.assign(flops=points["budget"])
    return points.assign(flops=6 * points["N"] * points["D"]) if "D" in points else points


def with_budgets(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points with `budget`, if they have it or if their FLOPs are few values, each at several sizes."""
    if "budget" in points or "flops" not in points:
        return points
    ordered = np.sort(points["flops"].unique())
    group = np.cumsum(np.concatenate([[True], ordered[1:] > ordered[:-1] * SAME_BUDGET]))
    middle = np.exp(pd.Series(np.log(ordered)).groupby(group).transform("mean"))
    budget = points["flops"].map(dict(zip(ordered, middle, strict=True)))
    narrow = (np.abs(np.log(points["flops"] / budget)) < np.log(SAME_BUDGET)).all()
    crowded = points["size"].groupby(budget).transform("nunique") >= MIN_SIZES
    if not narrow or crowded.mean() < SHARE_IN_BUDGETS or budget[crowded].nunique() < MIN_BUDGETS:
        return points
    return points.assign(budget=budget)


def analyze_runs(points: pd.DataFrame, *, level: float) -> RunCompute | None:
    """Analyze the points of one variant by compute; None where their FLOPs are not known.

    Args:
        points: `variant`, `run`, `size`, `N`, `loss`; `D`, `flops`, `budget`, `seed` where they are known.
        level: confidence level.
    """
    points = with_budgets(with_flops(points)).reset_index(drop=True)
    if "flops" not in points:
        return None
    points = points.assign(frontier=unbeaten(points))
    return _at_given(points, level) if "budget" in points else _interpolated(points, level)


def _amounts(points: pd.DataFrame) -> list[str]:
    return ["N", "D"] if "D" in points else ["N"]


def _at_given(points: pd.DataFrame, level: float) -> RunCompute:
    """Fit parabolas to the runs of each budget."""
    slices = points.assign(flops=points["budget"])
    found = {name: optima(slices, name) for name in _amounts(points)}
    # A run that is measured at several budgets leaves all of them at once.
    strata = "flops" if points.groupby("run")["budget"].nunique().max() == 1 else None

    def estimate(name: str, value: float, statistic: Statistic) -> Estimate:
        held = found[name].loc[found[name]["status"] == FitStatus.OK, "flops"]
        inside = slices[slices["flops"].isin(held)].reset_index(drop=True)
        # The outermost sizes of the outermost budgets carry most of the variance: half of the runs to spare count.
        freedom = (inside["run"].nunique() - PARABOLA * len(held) + 1) // 2
        return _over_runs(inside, value, statistic, strata, freedom, level, leverages(found[name], inside, name))

    law = _law_of_optima(found["N"], str(points["variant"].iloc[0]))
    frontier = no_number(law.status, law.reason, level)
    if law.status is FitStatus.OK:
        frontier = number(estimate("N", _exponent(law), partial(_optima_exponents, found["N"], law)))
    exponents = {name: _growth(table, partial(estimate, name), name, level) for name, table in found.items()}
    return RunCompute(
        points=points,
        given=True,
        slices=slices,
        optima=found["N"],
        best_size=exponents["N"],
        best_data=exponents.get("D", no_number(FitStatus.NOT_IDENTIFIABLE, NO_DATA, level)),
        frontier=law,
        frontier_exponent=frontier,
        reason="",
    )


def _interpolated(points: pd.DataFrame, level: float) -> RunCompute:
    """Interpolate the losses of each size along its FLOPs."""
    amounts = _amounts(points)
    budgets, reason = common_budgets(points)
    slices = at_budgets(points, budgets, *amounts)
    found = {name: optima(slices, name) for name in amounts}
    freedom = points["run"].nunique() - PARABOLA * BUDGETS

    def estimate(value: float, statistic: Statistic) -> Estimate:
        return _over_runs(
            points,
            value,
            lambda parts: statistic([at_budgets(p, budgets, *amounts) for p in parts]),
            None,
            freedom,
            level,
        )

    exponents = {name: _growth(table, estimate, name, level) for name, table in found.items()}
    if reason:
        exponents = dict.fromkeys(amounts, no_number(FitStatus.NOT_IDENTIFIABLE, reason, level))
    law = frontier_law(points.assign(parameters=points["size"]))
    return RunCompute(
        points=points,
        given=False,
        slices=slices,
        optima=found["N"],
        best_size=exponents["N"],
        best_data=exponents.get("D", no_number(FitStatus.NOT_IDENTIFIABLE, NO_DATA, level)),
        frontier=law,
        frontier_exponent=_frontier_exponent(points, law, level),
        reason=reason,
    )


def _growth(table: pd.DataFrame, estimate: Callable[[float, Statistic], Estimate], name: str, level: float) -> Number:
    """Return the exponent of the best amount, or why there is none.

    Args:
        table: the best amounts.
        estimate: gives a number its interval, from its value and how it is computed from other runs.
        name: column of the amounts.
        level: confidence level.
    """
    value, reason = growth(table)
    if reason:
        failed = table.loc[table["status"] != FitStatus.OK, "status"]
        return no_number(failed.mode().iloc[0] if len(failed) else FitStatus.NOT_IDENTIFIABLE, reason, level)
    return number(estimate(value, lambda parts: np.array([exponent_at(table, part, name) for part in parts])))


def _over_runs(
    points: pd.DataFrame,
    value: float,
    statistic: Statistic,
    strata: str | None,
    freedom: int,
    level: float,
    leverage: Array | None = None,
) -> Estimate:
    """Return a number with its interval: over seeds where there are whole ones, else by a jackknife over runs."""
    ladders = seed_ladders(points)
    if ladders:
        return over_seeds(statistic(ladders), len(ladders), level=level)
    rows = left_out(list(points["run"]), list(points[strata]) if strata else [0] * len(points))
    every = np.arange(len(points))
    values = statistic([points.iloc[np.setdiff1d(every, part)] for stratum in rows for part in stratum])
    return jackknife(rows, list(values), value, freedom, level, points["run"].nunique(), leverage)


def _law_of_optima(table: pd.DataFrame, variant: str) -> Fit:
    """Fit the law of the optima's losses, without E where the losses do not flatten or are few."""
    held = table[table["status"] == FitStatus.OK].assign(variant=variant)
    if len(held) < MIN_BUDGETS:
        reason = f"{len(held)} compute budgets have a best size, {MIN_BUDGETS} are needed"
        return refused(FRONTIER[0], [variant], Refusal.TOO_FEW_POINTS, reason)
    found = fit_law(held, FRONTIER[0])
    return (
        found
        if found.refusal not in (Refusal.NO_IRREDUCIBLE_LOSS, Refusal.TOO_FEW_SIZES)
        else fit_law(held, FRONTIER[1])
    )


def _optima_exponents(table: pd.DataFrame, law: Fit, parts: Sequence[pd.DataFrame]) -> Array:
    """Return the exponents of the law of the optima of other runs at the same budgets."""
    held = table[table["status"] == FitStatus.OK].assign(variant=law.variants[0])
    losses = np.array([optima_at(table, part, "N")["loss"].to_numpy(float) for part in parts])
    known = losses > 0
    refits = refit(
        prepared(held, law.law), law, known.astype(float), np.where(known, losses, held["loss"].to_numpy(float))
    )
    holds = refits.holds & (known.sum(axis=1) >= MIN_BUDGETS)
    return np.asarray(np.where(holds, refits.exponents[:, 0], np.nan))


def _frontier_exponent(points: pd.DataFrame, law: Fit, level: float) -> Number:
    """Return the exponent of the frontier's law; runs are resampled, because a frontier is a selection of runs."""
    if law.status is not FitStatus.OK:
        return no_number(law.status, law.reason, level)
    # As in `frontier_points`, the smallest and the largest size are left out.
    table = points.sort_values(["flops", "loss"], ignore_index=True)
    inner = table["size"].isin(sorted(table["size"].unique())[1:-1]).to_numpy()
    losses, units = table["loss"].to_numpy(float), table["run"].nunique()
    ladders = seed_ladders(table)
    if ladders:
        present = np.array([(table["seed"] == ladder["seed"].iloc[0]).to_numpy(float) for ladder in ladders])
    else:
        present = resampled_weights(list(table["run"]))
    best = np.minimum.accumulate(np.where(present > 0, losses, np.inf), axis=1)
    before = np.concatenate([np.full((len(best), 1), np.inf), best[:, :-1]], axis=1)
    front = (present > 0) & (losses < before) & inner
    free = free_parameters(law.law, 1)
    refits = refit(prepared(table, law.law), law, front.astype(float))
    values = np.where(refits.holds & (front.sum(axis=1) > free), refits.exponents[:, 0], np.nan)
    if ladders:
        return number(over_seeds(values, len(ladders), level=level))
    freedom = table.loc[inner, "run"].nunique() - free
    return number(bootstrap_estimate(_exponent(law), values, freedom, level, units=units))


def _exponent(law: Fit) -> float:
    return law.exponents[law.variants[0]][0]
