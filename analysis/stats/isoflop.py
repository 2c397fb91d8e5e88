"""The best size at a compute budget, and how it grows with compute (Hoffmann et al. 2022, approach 2).

At each budget a parabola of loss in the logarithm of size is fitted by least squares; its minimum is the best size. A
line through the logarithms of the best sizes gives the exponent a of `N_best ~ C^a`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from .status import FitStatus, Refusal

Array = npt.NDArray[np.float64]

MIN_SIZES = 3
"""A parabola needs as many sizes."""
MIN_BUDGETS = 3
"""The exponent of the best size needs as many budgets."""
WITHIN = 10.0
"""Sizes within this factor of the best one are fitted: over decades of size the losses are not a parabola."""
NEIGHBORS = 2
"""As many sizes on each side of the best one are fitted in any case."""
TABLE = ["flops", "size", "loss", "low", "high", "status", "reason"]


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """The best size at one budget."""

    size: float
    """NaN for none, as `loss` is."""
    loss: float
    low: float
    """The smallest size that was fitted; NaN where none was."""
    high: float
    status: FitStatus
    reason: str
    """Why there is no best size; empty where there is one."""


def optimum(sizes: Array, losses: Array) -> Optimum:
    """Return the best size at one budget.

    Args:
        sizes: sizes, or amounts of data, of the points at this budget [n].
        losses: their losses [n].
    """
    order = np.argsort(sizes)
    sizes, losses = sizes[order], losses[order]
    distinct = np.unique(sizes)
    if len(distinct) < MIN_SIZES:
        return _none(Refusal.TOO_FEW_SIZES, f"only {len(distinct)} sizes reach this budget")
    if np.polyfit(np.log(sizes / sizes.mean()), losses, 2)[0] <= 0:
        return _none(Refusal.NO_MINIMUM, "the losses have no minimum over size")
    lowest = int(np.searchsorted(distinct, sizes[losses.argmin()]))
    if lowest in (0, len(distinct) - 1):
        end = "smallest" if lowest == 0 else "largest"
        return _none(Refusal.MINIMUM_AT_EDGE, f"the {end} size is best, so the optimum may lie outside the sizes")
    low = min(distinct[max(0, lowest - NEIGHBORS)], distinct[distinct >= distinct[lowest] / WITHIN][0])
    high = max(
        distinct[min(len(distinct) - 1, lowest + NEIGHBORS)], distinct[distinct <= distinct[lowest] * WITHIN][-1]
    )
    best, value = vertex(sizes, losses, low, high)
    if not low <= best <= high:
        return _none(Refusal.NO_MINIMUM, "the losses near the best size have no minimum")
    return Optimum(size=best, loss=value, low=float(low), high=float(high), status=FitStatus.OK, reason="")


def _none(refusal: Refusal, reason: str) -> Optimum:
    nan = float("nan")
    return Optimum(size=nan, loss=nan, low=nan, high=nan, status=refusal.status, reason=reason)


def vertex(sizes: Array, losses: Array, low: float, high: float) -> tuple[float, float]:
    """Return the minimum of the parabola of the points between two sizes, and its loss; NaN for none.

    The minimum may lie outside these sizes: that is what leaving out a run can do to a parabola, and it counts as such.
    """
    inside = (sizes >= low) & (sizes <= high)
    if len(np.unique(sizes[inside])) < MIN_SIZES:
        return float("nan"), float("nan")
    x = np.log(sizes[inside])
    middle = x.mean()
    curvature, slope, level = np.polyfit(x - middle, losses[inside], 2)
    best = middle - slope / (2 * curvature)
    if curvature <= 0:
        return float("nan"), float("nan")
    return float(np.exp(best)), float(level - slope**2 / (4 * curvature))


def optima(slices: pd.DataFrame, size: str) -> pd.DataFrame:
    """Return the best size at each budget.

    Args:
        slices: `flops` (the budget), `loss` and the sizes; a row for each point.
        size: column of the sizes.

    Returns:
        `flops`, `size`, `loss`, `low` and `high` (the sizes between which the parabola was fitted), `status`, `reason`.
    """
    rows = []
    for flops, group in slices.groupby("flops"):
        found = optimum(group[size].to_numpy(float), group["loss"].to_numpy(float))
        rows.append((flops, found.size, found.loss, found.low, found.high, found.status, found.reason))
    return pd.DataFrame(rows, columns=TABLE)


def growth(found: pd.DataFrame) -> tuple[float, str]:
    """Return the exponent of the best size over compute, and why there is none.

    Args:
        found: see `optima`.
    """
    held = found[found["status"] == FitStatus.OK]
    if len(held) < MIN_BUDGETS:
        return float("nan"), (
            f"{len(held)} of {len(found)} compute budgets have a best size between the smallest and the largest, "
            f"{MIN_BUDGETS} are needed"
        )
    return slope(held["flops"].to_numpy(float), held["size"].to_numpy(float)), ""


def slope(flops: Array, sizes: Array) -> float:
    """Return the exponent a of `size ~ flops^a`."""
    return float(np.polyfit(np.log(flops / flops.mean()), np.log(sizes), 1)[0])


def optima_at(found: pd.DataFrame, slices: pd.DataFrame, size: str) -> pd.DataFrame:
    """Return best sizes of other points at the same budgets, each in the same range of sizes.

    Args:
        found: `optima` of all points; its budgets that have a best size are evaluated.
        slices: `flops`, `loss` and the sizes of the other points.
        size: column of the sizes.

    Returns:
        `flops`, `size`, `loss`; NaN where a budget has no best size now.
    """
    held = found[found["status"] == FitStatus.OK]
    budgets, sizes, losses = (slices[name].to_numpy(float) for name in ("flops", size, "loss"))
    rows = []
    for budget, low, high in held[["flops", "low", "high"]].to_numpy(float):
        at = budgets == budget
        rows.append((budget, *vertex(sizes[at], losses[at], low, high)))
    return pd.DataFrame(rows, columns=["flops", "size", "loss"])
