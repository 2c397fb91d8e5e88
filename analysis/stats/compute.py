"""Loss against compute, and the best size at each compute budget, from the curves of several sizes.

Both analyses use the same checkpoints. iso-FLOP: at several compute budgets, each size's curve is interpolated, and a
parabola of loss in the logarithm of size has its minimum at the best size (Hoffmann et al. 2022, approach 2).
Frontier: the checkpoints whose loss no other checkpoint reaches with as few FLOPs (approach 1). Checkpoints stand for
complete trainings here, which is valid while the learning rate is constant after its warm-up, as LINA's is.

Intervals are Student's t over seeds: each seed is a whole ladder of sizes, which is analyzed by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from .fit import fit_law, fit_prepared, prepared
from .identifiability import refused
from .isoflop import MIN_BUDGETS, MIN_SIZES, Array, growth, optima, optima_at, slope
from .laws import Fit, power
from .seedwise import MAX_SEEDS, ONE_SEED, Estimate, over_seeds, without_interval
from .status import FitStatus, Refusal

BUDGETS = 7
"""Number of compute budgets at which sizes are compared, where none are given."""
FRONTIER = (power("flops"), power("flops", irreducible_loss=False))
"""The law without E is for losses that do not flatten: it is fitted where E ends at zero."""


@dataclass(frozen=True, kw_only=True)
class ComputeAnalysis:
    """Loss against training FLOPs."""

    curves: pd.DataFrame
    """Means over seeds: `variant`, `size`, `parameters`, `images`, `flops`, `loss`, `frontier` (whether no other
    checkpoint of the variant has a loss as low with as few FLOPs)."""
    slices: pd.DataFrame
    """Loss of each size at each budget: `variant`, `flops`, `size`, `parameters`, `loss`."""
    optima: pd.DataFrame
    """For each variant and budget: `parameters` and `loss` of the best size, `status` (`FitStatus`), `reason`."""
    size_exponents: pd.DataFrame
    """For each variant: `exponent` a of `N_best ~ C^a` (NaN for none), its interval `low` to `high` over `seeds`, the
    number of `budgets` it is fitted to, `reason` for no exponent, `note` for no interval."""
    frontier_laws: dict[str, Fit]
    """Variant -> law of its frontier in FLOPs."""
    frontier_exponents: dict[str, Estimate]
    """Variant -> exponent of that law, of the variants that have one."""
    reason: str
    """Why sizes cannot be compared at equal FLOPs; empty where they can."""

    @property
    def comparable(self) -> bool:
        """Whether sizes can be compared at equal FLOPs."""
        return len(self.slices) > 0


def analyze_compute(points: pd.DataFrame) -> ComputeAnalysis:
    """Analyze checkpoints by compute.

    Args:
        points: `variant`, `size`, `parameters`, `seed`, `images`, `flops`, `loss`; all finite.
    """
    keys = ["variant", "size", "parameters", "images"]
    variants = list(dict.fromkeys(points["variant"]))
    means = points.groupby(keys, sort=False, as_index=False).agg(flops=("flops", "mean"), loss=("loss", "mean"))
    curves = means.assign(frontier=unbeaten(means), rank=means["variant"].map(variants.index))
    curves = curves.sort_values(["rank", "parameters", "flops"], ignore_index=True).drop(columns="rank")
    budgets, reason = common_budgets(curves)
    by_seed, several = _seed_curves(points, keys), points["seed"].nunique() > 1
    slices, rows, exponents, laws, growths = [], [], [], {}, {}
    for variant, curve in curves.groupby("variant", sort=False):
        seeds = [seed for _, seed in by_seed[by_seed["variant"] == variant].groupby("seed")] if several else []
        mine = at_budgets(curve, budgets, "parameters")
        found = optima(mine, "parameters")
        slices.append(mine.assign(variant=variant))
        rows.append(found.assign(variant=variant, parameters=found["size"]))
        exponents.append({"variant": variant, **_exponent(found, budgets, seeds)})
        law = laws[str(variant)] = frontier_law(curve)
        if law.status is FitStatus.OK:
            growths[str(variant)] = _frontier_exponent(law, seeds)
    columns = {
        "slices": ["variant", "flops", "size", "parameters", "loss"],
        "optima": ["variant", "flops", "parameters", "loss", "status", "reason"],
    }
    return ComputeAnalysis(
        curves=curves,
        slices=pd.concat(slices)[columns["slices"]].reset_index(drop=True),
        optima=pd.concat(rows)[columns["optima"]].reset_index(drop=True),
        size_exponents=pd.DataFrame(exponents),
        frontier_laws=laws,
        frontier_exponents=growths,
        reason=reason,
    )


def unbeaten(means: pd.DataFrame) -> "pd.Series[bool]":
    """Return whether no other point of the variant has a loss as low with as few FLOPs.

    Args:
        means: `variant`, `flops`, `loss`.
    """
    ordered = means.sort_values(["flops", "loss"])
    best_before = ordered.groupby("variant")["loss"].transform(lambda losses: losses.cummin().shift(fill_value=np.inf))
    return (ordered["loss"] < best_before).reindex(means.index)


def common_budgets(curves: pd.DataFrame) -> tuple[Array, str]:
    """Return compute budgets that at least `MIN_SIZES` sizes of each variant reach, and why there are none.

    Args:
        curves: `variant`, `size`, `flops`.
    """
    ends = curves.groupby(["variant", "size"], sort=False)["flops"].agg(["min", "max"])
    if (ends.groupby("variant").size() < MIN_SIZES).any():
        return np.empty(0), f"a best size needs at least {MIN_SIZES} sizes to compare"
    # From the first validation that MIN_SIZES sizes have had to the largest budget that as many reach.
    lowest = ends["min"].groupby("variant").apply(lambda first: sorted(first)[MIN_SIZES - 1]).max()
    highest = ends["max"].groupby("variant").apply(lambda last: sorted(last)[-MIN_SIZES]).min()
    if not lowest < highest:
        return np.empty(0), (
            f"no compute budget is covered by {MIN_SIZES} sizes: small sizes end at {highest:.3g} FLOPs, where large "
            f"ones are first validated at {lowest:.3g}; train small sizes on more images, or use "
            "study.budget.unit=flops"
        )
    return np.geomspace(lowest, highest, BUDGETS), ""


def at_budgets(curves: pd.DataFrame, budgets: Array, *amounts: str) -> pd.DataFrame:
    """Interpolate the curves of a variant at compute budgets, in the logarithm of FLOPs.

    Args:
        curves: `size`, `flops`, `loss` and the amounts; a row for each checkpoint.
        budgets: the budgets [n].
        amounts: columns that are interpolated as logarithms, as the size and the data.

    Returns:
        `flops` (the budget), `size`, the amounts, `loss`; no row where a curve does not reach a budget.
    """
    wanted, parts = np.log(budgets), []
    # Sizes may be text, or values of several fields: they are told apart, not compared.
    ordered = curves.assign(group=pd.factorize(curves["size"])[0]).sort_values(["group", "flops"], kind="stable")
    groups, sizes = ordered["group"].to_numpy(), ordered["size"].to_numpy()
    flops = np.log(ordered["flops"].to_numpy(float))
    columns = [*(np.log(ordered[name].to_numpy(float)) for name in amounts), ordered["loss"].to_numpy(float)]
    starts = [int(row) for row in np.flatnonzero(groups != np.concatenate([[-1], groups[:-1]]))] if len(groups) else []
    for start, stop in zip(starts, [*starts[1:], len(groups)], strict=True):
        x = flops[start:stop]
        reached = (wanted >= x[0] - 1e-9) & (wanted <= x[-1] + 1e-9)
        values = [np.interp(wanted[reached], x, column[start:stop]) for column in columns]
        logs = {name: np.exp(value) for name, value in zip(amounts, values, strict=False)}
        parts.append(
            {"flops": budgets[reached], "size": [sizes[start]] * int(reached.sum()), **logs, "loss": values[-1]}
        )
    names = ["flops", "size", *amounts, "loss"]
    return pd.DataFrame({name: [value for part in parts for value in part[name]] for name in names})


def exponent_at(found: pd.DataFrame, slices: pd.DataFrame, size: str) -> float:
    """Return the exponent of the best size of other points at the same budgets; NaN if too few of them have one.

    Args:
        found: `optima` of the whole; fixes budgets and ranges of sizes.
        slices: `flops`, `loss` and the sizes of the other points.
        size: column of the sizes.
    """
    again = optima_at(found, slices, size).dropna()
    few = len(again) < MIN_BUDGETS
    return float("nan") if few else slope(again["flops"].to_numpy(float), again["size"].to_numpy(float))


def _seed_curves(points: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return the curve of each seed; of many seeds, the mean curves of groups of them."""
    seeds = sorted(points["seed"].unique())
    if len(seeds) <= MAX_SEEDS:
        return points
    group = {seed: index * MAX_SEEDS // len(seeds) for index, seed in enumerate(seeds)}
    numbered = points.assign(seed=points["seed"].map(group))
    return numbered.groupby([*keys, "seed"], sort=False, as_index=False).agg(
        flops=("flops", "mean"), loss=("loss", "mean")
    )


def _exponent(found: pd.DataFrame, budgets: Array, seeds: Sequence[pd.DataFrame]) -> dict[str, object]:
    """Return a row of `ComputeAnalysis.size_exponents`, without its variant."""
    value, reason = growth(found)
    none = bool(np.isnan(value))
    values = [exponent_at(found, at_budgets(seed, budgets, "parameters"), "parameters") for seed in seeds if not none]
    estimate = _over_seeds(values, value)
    return {
        "exponent": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "budgets": int((found["status"] == FitStatus.OK).sum()),
        "seeds": estimate.seeds,
        "reason": reason,
        "note": "" if none else estimate.reason,
    }


def frontier_points(curve: pd.DataFrame) -> pd.DataFrame:
    """Return the points on a variant's frontier that a law may be fitted to.

    The smallest and the largest size are left out: a size beyond them may be better.

    Args:
        curve: `size`, `parameters`, `flops`, `loss`, `frontier`.
    """
    inner = sorted(curve["parameters"].unique())[1:-1]
    return curve[curve["frontier"] & curve["parameters"].isin(inner)]


def frontier_law(curve: pd.DataFrame) -> Fit:
    """Fit the law of the frontier; refused where few sizes are on it."""
    front = frontier_points(curve)
    sizes = front["size"].nunique()
    if sizes < MIN_SIZES:
        between = "1 size" if sizes == 1 else f"{sizes} sizes"
        reason = f"{between} between the smallest and the largest on the frontier, {MIN_SIZES} are needed"
        return refused(FRONTIER[0], [str(curve["variant"].iloc[0])], Refusal.TOO_FEW_SIZES, reason)
    found = fit_law(front, FRONTIER[0])
    return fit_law(front, FRONTIER[1]) if found.refusal is Refusal.NO_IRREDUCIBLE_LOSS else found


def _frontier_exponent(law: Fit, seeds: Sequence[pd.DataFrame]) -> Estimate:
    """Return the exponent of a frontier's law, with its interval over the frontiers of seeds."""
    values = []
    for seed in seeds:
        front = frontier_points(seed.assign(frontier=unbeaten(seed)))
        again = fit_prepared(prepared(front, law.law), law.law, law) if len(front) else None
        holds = again is not None and again.refusal in (None, Refusal.NO_IRREDUCIBLE_LOSS)
        values.append(again.exponents[law.variants[0]][0] if again is not None and holds else np.nan)
    return _over_seeds(values, law.exponents[law.variants[0]][0])


def _over_seeds(values: Sequence[float], whole: float) -> Estimate:
    """Return the mean over seeds with its interval, or the number from the mean curves without one."""
    if len(values) < 2:
        return without_interval(whole, 1, ONE_SEED)
    found = over_seeds(np.array(values), len(values))
    return found if found.known else replace(found, value=whole)
