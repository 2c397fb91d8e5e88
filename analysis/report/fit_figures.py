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
from ..stats.fit import Array, profile
from ..stats.status import FitStatus
from ..stats.study_fits import LEVEL, PooledFit
from .styles import line_style, log_x
from .metric_names import metric_name

CURVE_POINTS = 40
PROFILE_POINTS = 41


def fits_figure(runs: StudyRuns, shared: PooledFit) -> tuple[Figure, pd.DataFrame]:
    """Draw the law in N with shared exponents: every seed, curves with bands, and residuals.

    Dark: confidence band of the curve. Light: prediction band of a new run. Both have the level of the intervals.
    """
    assert shared.fit is not None
    figure, (top, below) = plt.subplots(2, 1, figsize=(4.6, 4.8), sharex=True, height_ratios=(2.4, 1))
    x = np.geomspace(shared.points["parameters"].min() / 1.15, shared.points["parameters"].max() * 1.3, CURVE_POINTS)
    numbers = _law_panels((top, below), runs, shared, shared.points, "parameters", x)
    top.set(ylabel=metric_name(runs.study.objective))
    top.set_title(shared.fit.law.name, fontsize="small")
    below.set(xlabel="parameters", ylabel="log residual")
    top.legend(handles=_handles(runs), fontsize="x-small")
    return figure, numbers


def surface_figure(runs: StudyRuns, shared: PooledFit) -> tuple[Figure, pd.DataFrame]:
    """Draw the law in N and D: checkpoints of each size, curves with bands, and residuals below."""
    sizes = [size for size in runs.sizes if (shared.points["size"] == size).any()]
    shape: dict[str, Any] = {"figsize": (2.6 * len(sizes) + 0.6, 4.6), "height_ratios": (2.2, 1)}
    figure, panels = plt.subplots(2, len(sizes), sharex="col", sharey="row", squeeze=False, **shape)
    parts = []
    for column, size in zip(panels.T, sizes, strict=True):
        points = shared.points[shared.points["size"] == size]
        x = np.geomspace(points["images"].min(), points["images"].max(), CURVE_POINTS)
        parts.append(_law_panels(column, runs, shared, points, "images", x).assign(size=size))
        column[0].set(title=f"{runs.study.size_axis} {size}")
        column[1].set(xlabel="images seen")
    panels[0][0].set_ylabel(metric_name(runs.study.objective))
    panels[1][0].set_ylabel("log residual")
    figure.legend(handles=_handles(runs), loc="outside lower center", ncols=2, fontsize="x-small")
    return figure, pd.concat(parts, ignore_index=True)


def _law_panels(
    panels: Sequence[Axes], runs: StudyRuns, shared: PooledFit, points: pd.DataFrame, column: str, x: Array
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
    assert shared.fit is not None
    top, below = panels
    residuals = pd.Series(shared.fit.residuals, index=shared.points.index)
    inputs = {name: float(points[name].iloc[0]) for name in shared.fit.law.inputs}
    parts = []
    for index, variant in enumerate(runs.variants):
        style, mine = line_style(index), points[points["variant"] == variant]
        dots = style | {"linestyle": "", "markerfacecolor": "none", "markersize": 4}
        band = _band(shared, variant, x, [inputs | {column: float(value)} for value in x])
        _draw_band(top, band, style)
        top.plot(mine[column], mine["loss"], **dots)
        below.plot(mine[column], residuals[mine.index], **dots)
        parts.append(band.assign(variant=variant))
    log_x(top)
    below.axhline(0, color="0.5", linewidth=0.6)
    return pd.concat(parts, ignore_index=True)


def _handles(runs: StudyRuns) -> list[Line2D]:
    return [Line2D([], [], label=variant, **line_style(index)) for index, variant in enumerate(runs.variants)]


def profile_figure(laws: Sequence[PooledFit]) -> tuple[Figure, pd.DataFrame]:
    """Draw the profile of E of each law: cost above its minimum with E fixed. If it is flat, E is not determined."""
    figure, panels = plt.subplots(1, len(laws), figsize=(3.2 * len(laws), 2.6), squeeze=False)
    parts = []
    for axes, shared in zip(panels[0], laws, strict=True):
        found = shared.fit
        assert found is not None
        values = np.linspace(0, shared.points["loss"].min() * 0.999, PROFILE_POINTS)
        rises = profile(shared.points, found.law, values) - found.cost
        axes.plot(values, rises, **line_style(0) | {"marker": ""})
        axes.axvline(found.irreducible_loss, color="0.4", linestyle=":", label=f"E = {found.irreducible_loss:.4g}")
        axes.set(xlabel="E", ylabel="cost above minimum")
        axes.set_title(found.law.name, fontsize="x-small")
        axes.legend(fontsize="x-small")
        parts.append(pd.DataFrame({"law": found.law.name, "E": values, "rise": rises}))
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


def _band(shared: PooledFit, variant: str, x: Array, inputs: Sequence[dict[str, float]]) -> pd.DataFrame:
    """Return the curve, its confidence band (`low`, `high`) and its prediction band (`run_low`, `run_high`)."""
    assert shared.fit is not None
    assert shared.bootstrap is not None
    refits = [found for found in shared.bootstrap.resampled if found is not None]
    curve, *lines = ([found.predict(variant, **at) for at in inputs] for found in (shared.fit, *refits))
    residuals = np.random.default_rng(0).choice(shared.fit.residuals, size=(len(refits), 1))
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.quantile(lines, tails, axis=0)
    run_low, run_high = np.quantile(np.array(lines) * np.exp(residuals), tails, axis=0)
    columns = {"x": x, "curve": curve, "low": low, "high": high, "run_low": run_low, "run_high": run_high}
    return pd.DataFrame(columns)


def _draw_band(axes: Axes, band: pd.DataFrame, style: dict[str, Any]) -> None:
    axes.fill_between(band["x"], band["run_low"], band["run_high"], color=style["color"], alpha=0.1, linewidth=0)
    axes.fill_between(band["x"], band["low"], band["high"], color=style["color"], alpha=0.25, linewidth=0)
    axes.plot(band["x"], band["curve"], color=style["color"], linestyle=style["linestyle"])
