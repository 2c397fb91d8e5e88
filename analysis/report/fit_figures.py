"""Figures of fits: points, curves and bands, residuals, the profile of E, and loss against compute."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..load.runs import StudyRuns
from ..stats.compute import ComputeAnalysis
from ..stats.fit import Array
from ..stats.irreducible import SeedwiseLaw
from ..stats.pinned import PinnedFits
from ..stats.status import FitStatus
from .figures import line_style, log_x
from .metric_names import metric_name

CURVE_POINTS = 40


def fits_figure(runs: StudyRuns, shared: SeedwiseLaw) -> tuple[Figure, pd.DataFrame]:
    """Draw the law in N with shared exponents: every seed, curves with bands, and residuals.

    The band is the interval of the curve over seeds.
    """
    table = shared.ladders.table()
    figure, (top, below) = plt.subplots(2, 1, figsize=(4.6, 4.8), sharex=True, height_ratios=(2.4, 1))
    x = np.geomspace(table["parameters"].min() / 1.15, table["parameters"].max() * 1.3, CURVE_POINTS)
    numbers = _law_panels((top, below), runs, shared, table, "parameters", x)
    top.set(ylabel=metric_name(runs.study.objective))
    top.set_title(shared.law.name, fontsize="small")
    below.set(xlabel="parameters", ylabel="log residual")
    top.legend(handles=_handles(runs), fontsize="x-small")
    return figure, numbers


def surface_figure(runs: StudyRuns, shared: SeedwiseLaw) -> tuple[Figure, pd.DataFrame]:
    """Draw the law in N and D: checkpoints of each size, curves with bands, and residuals below."""
    table = shared.ladders.table()
    sizes = [size for size in runs.sizes if (table["size"] == size).any()]
    shape: dict[str, Any] = {"figsize": (2.6 * len(sizes) + 0.6, 4.6), "height_ratios": (2.2, 1)}
    figure, panels = plt.subplots(2, len(sizes), sharex="col", sharey="row", squeeze=False, **shape)
    parts = []
    for column, size in zip(panels.T, sizes, strict=True):
        points = table[table["size"] == size]
        x = np.geomspace(points["images"].min(), points["images"].max(), CURVE_POINTS)
        parts.append(_law_panels(column, runs, shared, points, "images", x).assign(size=size))
        column[0].set(title=f"{runs.study.size_axis} {size}")
        column[1].set(xlabel="images seen")
    panels[0][0].set_ylabel(metric_name(runs.study.objective))
    panels[1][0].set_ylabel("log residual")
    figure.legend(handles=_handles(runs), loc="outside lower center", ncols=2, fontsize="x-small")
    return figure, pd.concat(parts, ignore_index=True)


def _law_panels(
    panels: Sequence[Axes], runs: StudyRuns, shared: SeedwiseLaw, points: pd.DataFrame, column: str, x: Array
) -> pd.DataFrame:
    """Draw points and a law at some values of an input, and the residuals below; returns the curves and bands.

    Args:
        panels: the upper and the lower one.
        runs: the study.
        shared: the law.
        points: those of its points that are drawn; the law's other inputs are equal in all of them.
        column: the input.
        x: its values.
    """
    top, below = panels
    inputs = {name: float(points[name].iloc[0]) for name in shared.law.inputs}
    parts = []
    for index, variant in enumerate(runs.variants):
        if variant not in shared.variants:
            continue
        style, mine = line_style(index), points[points["variant"] == variant]
        dots = style | {"linestyle": "", "markerfacecolor": "none", "markersize": 4}
        band = _band(shared, variant, [inputs | {column: float(value)} for value in x]).assign(x=x)
        _draw_band(top, band, style)
        top.plot(mine[column], mine["loss"], **dots)
        residuals = np.log(mine["loss"]) - np.log(np.interp(np.log(mine[column]), np.log(x), band["curve"]))
        below.plot(mine[column], residuals, **dots)
        parts.append(band.assign(variant=variant))
    log_x(top)
    below.axhline(0, color="0.5", linewidth=0.6)
    return pd.concat(parts, ignore_index=True)


def _handles(runs: StudyRuns) -> list[Line2D]:
    return [Line2D([], [], label=variant, **line_style(index)) for index, variant in enumerate(runs.variants)]


def profile_figure(laws: Sequence[SeedwiseLaw]) -> tuple[Figure, pd.DataFrame]:
    """Draw the profile of E of each law: cost above its minimum with E pinned, and the values that are inside."""
    figure, panels = plt.subplots(1, len(laws), figsize=(3.2 * len(laws), 2.6), squeeze=False)
    parts = []
    for axes, law in zip(panels[0], laws, strict=True):
        found = law.profile
        assert found is not None
        axes.plot(found.values, found.costs, **line_style(0) | {"marker": ""})
        axes.axvspan(found.low, found.high, color="0.85", label=f"inside: {found.low:.3g} to {found.high:.3g}")
        axes.axvline(found.best, color="0.4", linestyle=":", label=f"best: {found.best:.3g}")
        axes.set(xlabel="E", ylabel="cost above minimum")
        axes.set_title(f"{law.law.name}\nE {found.status}", fontsize="x-small")
        axes.legend(fontsize="x-small")
        columns = {"law": law.law.name, "E": found.values, "rise": found.costs, "inside": found.inside}
        parts.append(pd.DataFrame(columns))
    return figure, pd.concat(parts, ignore_index=True)


def compute_figure(runs: StudyRuns, found: ComputeAnalysis) -> tuple[Figure, pd.DataFrame]:
    """Draw loss against FLOPs, a line for each size with the frontier marked, and loss against size at equal FLOPs."""
    figure, (curves, slices) = plt.subplots(1, 2, figsize=(6.8, 3.2), sharey=True)
    for index, variant in enumerate(runs.variants):
        style = line_style(index)
        tables = (found.curves, found.slices, found.optima)
        mine, at, optima = (table[table["variant"] == variant] for table in tables)
        for _, size in mine.groupby("size", sort=False):
            curves.plot(size["flops"], size["loss"], color=style["color"], linewidth=0.7, alpha=0.7)
        front = mine[mine["frontier"]].sort_values("flops")
        curves.plot(front["flops"], front["loss"], label=variant, **style | {"markersize": 3.5})
        for _, budget in at.groupby("flops"):
            slices.plot(budget["parameters"], budget["loss"], color=style["color"], linewidth=0.9)
        best = optima[optima["status"] == FitStatus.OK]
        slices.plot(best["parameters"], best["loss"], style["marker"], color=style["color"], markersize=5)
    log_x(curves)
    curves.set(xlabel="training FLOPs", ylabel=metric_name(runs.study.objective))
    curves.set_title("markers: frontier", fontsize="small")
    slices.set(xlabel="parameters")
    if not found.comparable:
        slices.set(xticks=[])
        note = "no compute budget\ncovered by three sizes"
        slices.text(0.5, 0.5, note, transform=slices.transAxes, ha="center", va="center")
    else:
        log_x(slices)
        slices.set_title("line: equal FLOPs; marker: best size", fontsize="small")
    curves.legend(fontsize="x-small")
    return figure, found.curves


def _band(shared: SeedwiseLaw, variant: str, inputs: Sequence[dict[str, float]]) -> pd.DataFrame:
    """Return the curve and its band over seeds (`low`, `high`; NaN without an interval)."""

    def logarithm(fits: PinnedFits, at: dict[str, float]) -> Array:
        return np.asarray(np.log(fits.curve(variant, *at.values())))

    found = [shared.number(lambda fits, at=at: logarithm(fits, at), log=True).free for at in inputs]  # type: ignore[misc]
    return pd.DataFrame([{"curve": e.value, "low": e.low, "high": e.high} for e in found])


def _draw_band(axes: Axes, band: pd.DataFrame, style: dict[str, Any]) -> None:
    axes.fill_between(band["x"], band["low"], band["high"], color=style["color"], alpha=0.25, linewidth=0)
    axes.plot(band["x"], band["curve"], color=style["color"], linestyle=style["linestyle"])
