"""Loss against compute: what each amount of FLOPs buys, and at which size it is best spent.

Two looks at the same checkpoints, seeds averaged. iso-FLOP: at some amounts of compute, loss against size, a parabola
in the logarithm of size, and its lowest point (Hoffmann et al. 2022, approach 2). Frontier: the checkpoints that no
other one beats with as little compute (approach 1). Checkpoints stand for whole trainings here, which is right where
the learning rate is constant after its warm-up, as LINA's is.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .fit import fit
from .identifiability import refused
from .laws import Fit, power

BUDGETS = 7
"""Amounts of compute that sizes are compared at."""
SIZES = 3
"""Fewer sizes have no parabola."""
NEIGHBOURS = 2
"""Sizes on each side of the best one that its parabola goes through."""
FRONTIER = (power("flops"), power("flops", offset=False))
"""The second is for losses that do not flatten: it is taken where the first is refused."""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Loss against FLOPs of training."""

    curves: pd.DataFrame
    """Means over seeds: `variant`, `size`, `parameters`, `images`, `flops`, `loss`, `frontier` (whether no other
    checkpoint of the variant is as good with as little)."""
    slices: pd.DataFrame
    """Loss of each size at each amount: `variant`, `flops`, `size`, `parameters`, `loss`."""
    optima: pd.DataFrame
    """For each variant and amount: `parameters` and `loss` of the best size, `status`, `reason`."""
    growth: pd.DataFrame
    """For each variant: `exponent` a of `N_best ~ C^a`, the number of `budgets` behind it, `reason` for none."""
    laws: dict[str, Fit]
    """Variant -> the law of its frontier in FLOPs."""
    reason: str
    """Why sizes cannot be compared at equal FLOPs; empty where they can."""


def compute(points: pd.DataFrame) -> Compute:
    """Look at checkpoints by compute.

    Args:
        points: `variant`, `size`, `parameters`, `seed`, `images`, `flops`, `loss`; all finite.
    """
    keys = ["variant", "size", "parameters", "images"]
    means = points.groupby(keys, sort=False, as_index=False).agg(flops=("flops", "mean"), loss=("loss", "mean"))
    curves = means.assign(frontier=_unbeaten(means)).sort_values(["parameters", "flops"], ignore_index=True)
    variants = list(dict.fromkeys(points["variant"]))
    curves = curves.sort_values(
        "variant", key=lambda names: names.map(variants.index), kind="stable", ignore_index=True
    )
    slices, reason = _slices(curves)
    optima = pd.DataFrame(
        [
            {"variant": variant, "flops": flops, **_optimum(group)}
            for (variant, flops), group in slices.groupby(["variant", "flops"], sort=False)
        ],
        columns=["variant", "flops", "parameters", "loss", "status", "reason"],
    )
    return Compute(
        curves=curves,
        slices=slices,
        optima=optima,
        growth=_growth(optima, variants),
        laws={str(variant): _frontier_law(group) for variant, group in curves.groupby("variant", sort=False)},
        reason=reason,
    )


def _unbeaten(means: pd.DataFrame) -> "pd.Series[bool]":
    """Whether no checkpoint of the variant has a loss as low with as few FLOPs."""
    ordered = means.sort_values(["flops", "loss"])
    best_before = ordered.groupby("variant")["loss"].transform(lambda losses: losses.cummin().shift(fill_value=np.inf))
    return (ordered["loss"] < best_before).reindex(means.index)


def _slices(curves: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The curves at amounts of compute that at least `SIZES` sizes of each variant have seen."""
    columns = ["variant", "flops", "size", "parameters", "loss"]
    ends = curves.groupby(["variant", "size"], sort=False)["flops"].agg(["min", "max"])
    if (ends.groupby("variant").size() < SIZES).any():
        return pd.DataFrame(columns=columns), f"fewer than {SIZES} sizes have no lowest point between them"
    # The largest amount that SIZES sizes reach, and the least that as many have seen.
    lowest = ends["min"].groupby("variant").apply(lambda first: sorted(first)[SIZES - 1]).max()
    highest = ends["max"].groupby("variant").apply(lambda last: sorted(last)[-SIZES]).min()
    if not lowest < highest:
        return pd.DataFrame(columns=columns), (
            f"no amount of FLOPs was seen at {SIZES} sizes: smaller ones end at {highest:.3g}, where larger ones are "
            f"validated from {lowest:.3g} on; train small sizes on more images, or take study.budget.unit=flops"
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
    """The lowest point of a parabola through the losses of the best size and those beside it, at one amount of compute.

    Farther sizes are left out: over decades of size the losses are no parabola.
    """
    ordered = group.sort_values("parameters")
    x, losses = np.log(ordered["parameters"].to_numpy(float)), ordered["loss"].to_numpy(float)
    nothing = {"parameters": np.nan, "loss": np.nan}
    if len(x) < SIZES:
        return {**nothing, "status": "not identifiable", "reason": f"{len(x)} sizes have seen as much"}
    if np.polyfit(x - x.mean(), losses, 2)[0] <= 0:
        return {**nothing, "status": "wrong curvature", "reason": "the losses have no lowest point"}
    lowest = int(losses.argmin())
    if lowest in (0, len(x) - 1):
        end = "smallest" if lowest == 0 else "largest"
        return {**nothing, "status": "at an edge", "reason": f"the {end} size is best, so a better one may lie beyond"}
    near = slice(max(0, lowest - NEIGHBOURS), lowest + NEIGHBOURS + 1)
    middle = x[near].mean()
    curvature, slope, level = np.polyfit(x[near] - middle, losses[near], 2)
    best = middle - slope / (2 * curvature)
    value = level - slope**2 / (4 * curvature)
    return {"parameters": float(np.exp(best)), "loss": float(value), "status": "ok", "reason": ""}


def _growth(optima: pd.DataFrame, variants: list[str]) -> pd.DataFrame:
    rows = []
    for variant in variants:
        found = optima[(optima["variant"] == variant) & (optima["status"] == "ok")]
        if len(found) < 3:
            reason = (
                f"{len(found)} amounts of compute with a best size between the smallest and the largest; 3 are needed"
            )
            rows.append((variant, np.nan, len(found), reason))
            continue
        logs = np.log(found[["flops", "parameters"]].to_numpy(float))
        rows.append((variant, float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0]), len(found), ""))
    return pd.DataFrame(rows, columns=["variant", "exponent", "budgets", "reason"])


def _frontier_law(curve: pd.DataFrame) -> Fit:
    """The law of the unbeaten checkpoints; refused where they are of few sizes.

    Those of the smallest and the largest size are left out: beyond them a better size may lie.
    """
    inner = sorted(curve["parameters"].unique())[1:-1]
    front = curve[curve["frontier"] & curve["parameters"].isin(inner)]
    sizes = front["size"].nunique()
    if sizes < SIZES:
        reason = f"{sizes} of the sizes between the smallest and the largest are on the frontier: a law needs {SIZES}"
        return refused(FRONTIER[0], [str(curve["variant"].iloc[0])], reason)
    found = fit(front, FRONTIER[0])
    if found.status == "at an edge" and "offset ends at zero" in found.reason:
        found = fit(front, FRONTIER[1])
    return found
