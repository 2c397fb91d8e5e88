"""Loss against compute for a table of runs: best sizes at the table's budgets, or where curves of sizes cross budgets.

With budgets, a parabola is fitted to the runs of each, and the frontier is the law of the optima's losses. Without, the
losses of each size are interpolated along its FLOPs, as for a study's checkpoints. Exponents have intervals over seeds
where the table has whole seeds, else by leaving out runs in turn, within their budget where there are budgets.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from .compute import BUDGETS, FRONTIER, at_budgets, common_budgets, exponent_at, frontier_law, frontier_points, unbeaten
from .fit import fit, fit_prepared, prepared
from .identifiability import refused
from .isoflop import MIN_BUDGETS, MIN_SIZES, growth, optima, optima_at
from .laws import Fit, free_parameters
from .resampling import bootstrap, bootstrap_estimate, jackknife
from .run_laws import Number, no_number, number, refit_holds, seed_ladders
from .seedwise import Estimate, over_seeds
from .status import FitStatus, Refusal

SAME_BUDGET = 1.05
"""FLOPs within this factor are one budget, where the table has FLOPs and no budgets."""
SHARE_IN_BUDGETS = 0.8
"""FLOPs are budgets if at least this share of the points lies at those that `MIN_SIZES` sizes have."""
PARABOLA = 3
"""Numbers that a parabola has."""
FRONTIER_RESAMPLES = 200
NO_DATA = "the table has no amounts of data"

Statistic = Callable[[pd.DataFrame], float]


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
        freedom = inside["run"].nunique() - PARABOLA * len(held)
        return _over_runs(inside, value, statistic, strata, freedom, level)

    law = _law_of_optima(found["N"], str(points["variant"].iloc[0]))
    frontier = no_number(law.status, law.reason, level)
    if law.status is FitStatus.OK:
        frontier = number(estimate("N", _exponent(law), partial(_optima_exponent, found["N"], law)))
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
            points, value, lambda rows: statistic(at_budgets(rows, budgets, *amounts)), None, freedom, level
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
    return number(estimate(value, lambda rows: exponent_at(table, rows, name)))


def _over_runs(
    points: pd.DataFrame, value: float, statistic: Statistic, strata: str | None, freedom: int, level: float
) -> Estimate:
    """Return a number with its interval: over seeds where there are whole ones, else by a jackknife over runs."""
    ladders = seed_ladders(points)
    if ladders:
        return over_seeds(np.array([statistic(ladder) for ladder in ladders]), len(ladders), level=level)
    labels = list(points[strata]) if strata else [0] * len(points)
    return jackknife(list(points["run"]), labels, lambda rows: statistic(points.iloc[rows]), value, freedom, level)


def _law_of_optima(table: pd.DataFrame, variant: str) -> Fit:
    """Fit the law of the optima's losses, without E where the losses do not flatten or are few."""
    held = table[table["status"] == FitStatus.OK].assign(variant=variant)
    if len(held) < MIN_BUDGETS:
        reason = f"{len(held)} compute budgets have a best size, {MIN_BUDGETS} are needed"
        return refused(FRONTIER[0], [variant], Refusal.TOO_FEW_POINTS, reason)
    found = fit(held, FRONTIER[0])
    return (
        found if found.refusal not in (Refusal.NO_IRREDUCIBLE_LOSS, Refusal.TOO_FEW_SIZES) else fit(held, FRONTIER[1])
    )


def _optima_exponent(table: pd.DataFrame, law: Fit, slices: pd.DataFrame) -> float:
    """Return the exponent of the law of the optima of other runs at the same budgets."""
    again = optima_at(table, slices, "N").dropna()
    return _refitted(again.assign(variant=law.variants[0]), law) if len(again) >= MIN_BUDGETS else float("nan")


def _frontier_exponent(points: pd.DataFrame, law: Fit, level: float) -> Number:
    """Return the exponent of the frontier's law; runs are resampled, because a frontier is a selection of runs."""
    if law.status is not FitStatus.OK:
        return no_number(law.status, law.reason, level)
    table = points.assign(parameters=points["size"])
    inner = table[table["parameters"].isin(sorted(table["parameters"].unique())[1:-1])]

    def statistic(rows: pd.DataFrame) -> float:
        front = frontier_points(rows.assign(frontier=unbeaten(rows)))
        return _refitted(front, law) if len(front) > free_parameters(law.law, 1) else float("nan")

    ladders = seed_ladders(table)
    if ladders:
        return number(over_seeds(np.array([statistic(ladder) for ladder in ladders]), len(ladders), level=level))
    values = bootstrap(
        list(table["run"]),
        lambda rows: np.array([statistic(table.iloc[rows].reset_index(drop=True))]),
        resamples=FRONTIER_RESAMPLES,
    )
    freedom = inner["run"].nunique() - free_parameters(law.law, 1)
    return number(bootstrap_estimate(_exponent(law), values[:, 0], freedom, level, units=table["run"].nunique()))


def _exponent(law: Fit) -> float:
    return law.exponents[law.variants[0]][0]


def _refitted(points: pd.DataFrame, law: Fit) -> float:
    again = fit_prepared(prepared(points, law.law), law.law, law)
    return _exponent(again) if refit_holds(again) else float("nan")
