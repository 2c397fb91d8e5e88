"""Figures of laws: points, curves and bands, residuals, the profile of E, and loss against compute.

Variants whose curves would lie on each other have a panel each; the others' curves are gray in it.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..load.runs import StudyRuns
from ..stats.compute import ComputeAnalysis
from ..stats.fit import Array
from ..stats.irreducible import SeedwiseLaw
from ..stats.pinned import PinnedFits
from ..stats.status import FitStatus
from .metric_names import metric_name
from .styles import dots_style, line_style, log_x, variant_panels

CURVE_POINTS = 25
PANEL, RESIDUALS = 2.1, 0.9
"""Inches of a panel of a law, and of its residuals."""
OTHERS: dict[str, Any] = {"color": "0.8", "linewidth": 0.7, "zorder": 0}


def fits_figure(runs: StudyRuns, shared: SeedwiseLaw) -> tuple[Figure, pd.DataFrame]:
    """Draw the law in N with shared exponents: every seed, the curve with its band over seeds, and residuals."""
    table, variants = shared.ladders.table(), _fitted(runs, shared)
    x = np.geomspace(table["parameters"].min() / 1.1, table["parameters"].max() * 1.1, CURVE_POINTS)
    curves = {
        variant: _curve(shared, variant, [{"parameters": float(value)} for value in x], x) for variant in variants
    }
    figure, panels = variant_panels(variants, (PANEL, RESIDUALS), width=2.0, same_x=True)
    for variant, own in zip(variants, panels, strict=True):
        points = table[table["variant"] == variant]
        for other in variants:
            if other != variant:
                own[0].plot(x, curves[other]["curve"], **OTHERS)
        _draw_law(own, runs.variants.index(variant), points, "parameters", curves[variant])
        log_x(own[0], sorted(set(table["parameters"])))
    _label(panels, metric_name(runs.study.objective), "parameters")
    return figure, pd.concat([curve.assign(variant=variant) for variant, curve in curves.items()], ignore_index=True)


def surface_figure(runs: StudyRuns, shared: SeedwiseLaw) -> tuple[Figure, pd.DataFrame]:
    """Draw the law in N and D: checkpoints of each size, curves with bands over seeds, and residuals."""
    table, variants, parts = shared.ladders.table(), _fitted(runs, shared), []
    figure, panels = variant_panels(variants, (PANEL, RESIDUALS), width=2.0, same_x=True)
    for variant, own in zip(variants, panels, strict=True):
        mine = table[table["variant"] == variant]
        for size, points in mine.groupby("size", sort=False):
            x = np.geomspace(points["images"].min(), points["images"].max(), CURVE_POINTS)
            parameters = float(points["parameters"].iloc[0])
            inputs = [{"parameters": parameters, "images": float(value)} for value in x]
            curve = _curve(shared, variant, inputs, x)
            _draw_law(own, runs.variants.index(variant), points, "images", curve)
            own[0].annotate(f" {size}", (x[-1], curve["curve"].iloc[-1]), fontsize="x-small", va="center")
            parts.append(curve.assign(variant=variant, size=size))
        log_x(own[0])
    _label(panels, metric_name(runs.study.objective), "images seen")
    return figure, pd.concat(parts, ignore_index=True)


def profile_figure(laws: Sequence[SeedwiseLaw]) -> tuple[Figure, pd.DataFrame]:
    """Draw the profile of E of each law: cost above its minimum with E pinned, and the values that are inside."""
    figure, panels = plt.subplots(1, len(laws), figsize=(3.2 * len(laws), 2.6), squeeze=False)
    parts = []
    for axes, law in zip(panels[0], laws, strict=True):
        found = law.profile
        assert found is not None
        axes.plot(found.values, found.costs, **line_style(0) | {"marker": ""})
        axes.axvspan(found.low, found.high, color="0.88", label=f"inside: {found.low:.3g} to {found.high:.3g}")
        axes.axvline(found.best, color="0.4", linestyle=":", label=f"best: {found.best:.3g}")
        axes.set(xlabel="E", ylabel="cost above minimum")
        axes.set_title(f"{law.law.name}\nE {found.status}", fontsize="x-small")
        axes.legend(fontsize="x-small")
        columns = {"law": law.law.name, "E": found.values, "rise": found.costs, "inside": found.inside}
        parts.append(pd.DataFrame(columns))
    return figure, pd.concat(parts, ignore_index=True)


def compute_figure(runs: StudyRuns, found: ComputeAnalysis) -> tuple[Figure, pd.DataFrame]:
    """Draw loss against FLOPs, a line for each size with the frontier marked, and loss against size at equal FLOPs.

    The second row is there only if sizes can be compared at equal FLOPs.
    """
    variants = [name for name in runs.variants if (found.curves["variant"] == name).any()]
    heights = (PANEL, PANEL) if found.comparable else (PANEL,)
    figure, panels = variant_panels(variants, heights, width=2.0, same_x=False)
    fronts = found.curves[found.curves["frontier"]].sort_values("flops")
    for variant, own in zip(variants, panels, strict=True):
        style = line_style(runs.variants.index(variant))
        for other, front in fronts[fronts["variant"] != variant].groupby("variant", sort=False):
            own[0].plot(front["flops"], front["loss"], label=str(other), **OTHERS)
        for _, size in found.curves[found.curves["variant"] == variant].groupby("size", sort=False):
            own[0].plot(size["flops"], size["loss"], color=style["color"], linewidth=0.7, alpha=0.6)
        front = fronts[fronts["variant"] == variant]
        own[0].plot(front["flops"], front["loss"], **style | {"markersize": 3})
        log_x(own[0])
        if found.comparable:
            _draw_slices(own[1], found, variant, style)
    _label([own[:1] for own in panels], metric_name(runs.study.objective), "training FLOPs")
    if found.comparable:
        _label([own[1:] for own in panels], metric_name(runs.study.objective), "parameters")
    return figure, found.curves


def _draw_slices(axes: Axes, found: ComputeAnalysis, variant: str, style: dict[str, Any]) -> None:
    """Draw loss against size at each compute budget, with the best size marked."""
    slices, optima = (table[table["variant"] == variant] for table in (found.slices, found.optima))
    for _, budget in slices.groupby("flops"):
        axes.plot(budget["parameters"], budget["loss"], color=style["color"], linewidth=0.9)
    best = optima[optima["status"] == FitStatus.OK]
    axes.plot(best["parameters"], best["loss"], style["marker"], color=style["color"])
    log_x(axes, sorted(set(found.slices["parameters"])))


def _fitted(runs: StudyRuns, law: SeedwiseLaw) -> list[str]:
    return [variant for variant in runs.variants if variant in law.variants]


def _label(panels: Sequence[Sequence[Axes]], loss: str, x: str) -> None:
    """Name the axes: the loss at the left, residuals below it, and x under the last panel of each variant."""
    for own in panels:
        own[-1].set_xlabel(x)
        if own[0].get_subplotspec().is_first_col():  # type: ignore[union-attr]
            own[0].set_ylabel(loss)
            for axes in own[1:]:
                axes.set_ylabel("log residual")


def _draw_law(panels: Sequence[Axes], index: int, points: pd.DataFrame, column: str, curve: pd.DataFrame) -> None:
    """Draw the seeds, the curve with its band, and the residuals below."""
    style, (top, below) = line_style(index), panels
    dots = dots_style(index) | {"markersize": 3, "alpha": 0.7}
    top.fill_between(curve["x"], curve["low"], curve["high"], color=style["color"], alpha=0.25, linewidth=0)
    top.plot(curve["x"], curve["curve"], color=style["color"])
    top.plot(points[column], points["loss"], **dots)
    expected = np.interp(np.log(points[column]), np.log(curve["x"]), np.log(curve["curve"]))
    below.plot(points[column], np.log(points["loss"]) - expected, **dots)
    below.axhline(0, color="0.5", linewidth=0.6)
    below.yaxis.set_major_locator(MaxNLocator(3))


def _curve(law: SeedwiseLaw, variant: str, inputs: Sequence[dict[str, float]], x: Array) -> pd.DataFrame:
    """Return the curve and its band over seeds: `x`, `curve`, `low`, `high` (NaN without an interval)."""

    def logarithm(fits: PinnedFits, at: dict[str, float]) -> Array:
        return np.asarray(np.log(fits.curve(variant, *at.values())))

    found = [law.number(lambda fits, at=at: logarithm(fits, at), log=True).free for at in inputs]  # type: ignore[misc]
    rows = [{"curve": one.value, "low": one.low, "high": one.high} for one in found]
    return pd.DataFrame(rows).assign(x=x)
