"""Loss against compute, and the best size at each compute budget.

Both analyses use the same checkpoints, averaged over seeds. iso-FLOP: at several compute budgets, a parabola of loss in
the logarithm of size, and its minimum (Hoffmann et al. 2022, approach 2). Frontier: the checkpoints whose loss no other
checkpoint reaches with as few FLOPs (approach 1). Checkpoints stand for complete trainings here, which is valid while
the learning rate is constant after its warm-up, as LINA's is.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .fit import fit
from .identifiability import refused
from .laws import Fit, power
from .status import FitStatus, Refusal

BUDGETS = 7
"""Number of compute budgets at which sizes are compared."""
MIN_SIZES = 3
"""A parabola needs as many sizes."""
MIN_BUDGETS = 3
"""The exponent of the best size needs as many budgets."""
NEIGHBORS = 2
"""Sizes on each side of the best one that the parabola is fitted to."""
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
    """For each variant: `exponent` a of `N_best ~ C^a` (NaN for none), the number of `budgets` it is fitted to,
    `reason` for none."""
    frontier_laws: dict[str, Fit]
    """Variant -> law of its frontier in FLOPs."""
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
    means = points.groupby(keys, sort=False, as_index=False).agg(flops=("flops", "mean"), loss=("loss", "mean"))
    variants = list(dict.fromkeys(points["variant"]))
    curves = means.assign(frontier=_unbeaten(means), rank=means["variant"].map(variants.index))
    curves = curves.sort_values(["rank", "parameters", "flops"], ignore_index=True).drop(columns="rank")
    slices, reason = _slices(curves)
    budgets = slices.groupby(["variant", "flops"], sort=False)
    rows = [{"variant": variant, "flops": flops, **_optimum(group)} for (variant, flops), group in budgets]
    optima = pd.DataFrame(rows, columns=["variant", "flops", "parameters", "loss", "status", "reason"])
    return ComputeAnalysis(
        curves=curves,
        slices=slices,
        optima=optima,
        size_exponents=_size_exponents(optima, variants),
        frontier_laws={str(variant): _frontier_law(group) for variant, group in curves.groupby("variant", sort=False)},
        reason=reason,
    )


def _unbeaten(means: pd.DataFrame) -> "pd.Series[bool]":
    """Return whether no other checkpoint of the variant has a loss as low with as few FLOPs."""
    ordered = means.sort_values(["flops", "loss"])
    best_before = ordered.groupby("variant")["loss"].transform(lambda losses: losses.cummin().shift(fill_value=np.inf))
    return (ordered["loss"] < best_before).reindex(means.index)


def _slices(curves: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the curves at compute budgets that at least `MIN_SIZES` sizes of each variant reach, and why none."""
    columns = ["variant", "flops", "size", "parameters", "loss"]
    ends = curves.groupby(["variant", "size"], sort=False)["flops"].agg(["min", "max"])
    if (ends.groupby("variant").size() < MIN_SIZES).any():
        return pd.DataFrame(columns=columns), f"a best size needs at least {MIN_SIZES} sizes to compare"
    # From the first validation that MIN_SIZES sizes have had to the largest budget that as many reach.
    lowest = ends["min"].groupby("variant").apply(lambda first: sorted(first)[MIN_SIZES - 1]).max()
    highest = ends["max"].groupby("variant").apply(lambda last: sorted(last)[-MIN_SIZES]).min()
    if not lowest < highest:
        return pd.DataFrame(columns=columns), (
            f"no compute budget is covered by {MIN_SIZES} sizes: small sizes end at {highest:.3g} FLOPs, where large "
            f"ones are first validated at {lowest:.3g}; train small sizes on more images, or use "
            "study.budget.unit=flops"
        )
    rows = []
    for (variant, size), curve in curves.groupby(["variant", "size"], sort=False):
        x, y = np.log(curve["flops"].to_numpy(float)), curve["loss"].to_numpy(float)
        for flops in np.geomspace(lowest, highest, BUDGETS):
            if x[0] - 1e-9 <= np.log(flops) <= x[-1] + 1e-9:
                loss = float(np.interp(np.log(flops), x, y))
                rows.append((variant, float(flops), size, float(curve["parameters"].iloc[0]), loss))
    return pd.DataFrame(rows, columns=columns), ""


def _optimum(group: pd.DataFrame) -> dict[str, object]:
    """Return the minimum of a parabola through the losses of the best size and its neighbors, at one compute budget.

    Sizes farther away are left out: over decades of size the losses are not a parabola.
    """
    ordered = group.sort_values("parameters")
    x, losses = np.log(ordered["parameters"].to_numpy(float)), ordered["loss"].to_numpy(float)
    if len(x) < MIN_SIZES:
        return _no_optimum(Refusal.TOO_FEW_SIZES, f"only {len(x)} sizes reach this budget")
    if np.polyfit(x - x.mean(), losses, 2)[0] <= 0:
        return _no_optimum(Refusal.NO_MINIMUM, "the losses have no minimum over size")
    lowest = int(losses.argmin())
    if lowest in (0, len(x) - 1):
        end = "smallest" if lowest == 0 else "largest"
        return _no_optimum(
            Refusal.MINIMUM_AT_EDGE, f"the {end} size is best, so the optimum may lie outside the sizes of the study"
        )
    near = slice(max(0, lowest - NEIGHBORS), lowest + NEIGHBORS + 1)
    middle = x[near].mean()
    curvature, slope, level = np.polyfit(x[near] - middle, losses[near], 2)
    best = middle - slope / (2 * curvature)
    value = level - slope**2 / (4 * curvature)
    return {"parameters": float(np.exp(best)), "loss": float(value), "status": FitStatus.OK, "reason": ""}


def _no_optimum(refusal: Refusal, reason: str) -> dict[str, object]:
    return {"parameters": np.nan, "loss": np.nan, "status": refusal.status, "reason": reason}


def _size_exponents(optima: pd.DataFrame, variants: list[str]) -> pd.DataFrame:
    rows = []
    for variant in variants:
        found = optima[(optima["variant"] == variant) & (optima["status"] == FitStatus.OK)]
        exponent = np.nan
        reason = (
            f"{len(found)} of {BUDGETS} compute budgets have a best size between the smallest and the largest, "
            f"{MIN_BUDGETS} are needed"
        )
        if len(found) >= MIN_BUDGETS:
            logs = np.log(found[["flops", "parameters"]].to_numpy(float))
            exponent, reason = np.polyfit(logs[:, 0], logs[:, 1], 1)[0], ""
        rows.append((variant, exponent, len(found), reason))
    return pd.DataFrame(rows, columns=["variant", "exponent", "budgets", "reason"])


def _frontier_law(curve: pd.DataFrame) -> Fit:
    """Fit the law of the frontier; refused where few sizes are on it.

    The smallest and the largest size are left out: a size beyond them may be better.
    """
    inner = sorted(curve["parameters"].unique())[1:-1]
    front = curve[curve["frontier"] & curve["parameters"].isin(inner)]
    sizes = front["size"].nunique()
    if sizes < MIN_SIZES:
        reason = f"{sizes} sizes between the smallest and the largest are on the frontier, {MIN_SIZES} are needed"
        return refused(FRONTIER[0], [str(curve["variant"].iloc[0])], Refusal.TOO_FEW_SIZES, reason)
    found = fit(front, FRONTIER[0])
    return fit(front, FRONTIER[1]) if found.refusal is Refusal.NO_IRREDUCIBLE_LOSS else found
