"""Figures of fits: points with curve and bands, residuals, profile of the offset, and loss against compute."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..load.runs import StudyRuns
from ..stats.compute import Compute
from ..stats.fit import profile
from ..stats.study_fits import LEVEL, Shared
from .figures import line_style, log_x, metric_name

CURVE_POINTS = 40
PROFILE_POINTS = 41
Inputs = Callable[[float], dict[str, float]]
"""A place on a curve -> the law's inputs there."""


def fits_figure(runs: StudyRuns, shared: Shared) -> tuple[Figure, pd.DataFrame]:
    """The law in N that all variants share: every seed, curves with bands, and residuals.

    Dark band: where the curve may lie; light: where another run may. Both to the level of the intervals.
    """
    assert shared.found is not None
    figure, (top, below) = plt.subplots(
        2, 1, figsize=(4.6, 4.8), sharex=True, height_ratios=(2.4, 1), layout="constrained"
    )
    low, high = shared.points["parameters"].min(), shared.points["parameters"].max()
    x = np.geomspace(low / 1.15, high * 1.3, CURVE_POINTS)
    parts = []
    for place, variant in enumerate(runs.variants):
        style, mine = line_style(place), shared.points["variant"] == variant
        band = _band(shared, variant, x, lambda value: {"parameters": value})
        _draw_band(top, band, style)
        top.plot(shared.points["parameters"][mine], shared.points["loss"][mine], **_open(style))
        top.plot([], [], label=variant, **style)
        below.plot(shared.points["parameters"][mine], np.array(shared.found.residuals)[mine], **_open(style))
        parts.append(band.assign(variant=variant))
    below.axhline(0, color="0.5", linewidth=0.6)
    top.set(ylabel=metric_name(runs.study.objective))
    log_x(top)
    top.set_title(shared.found.law.name, fontsize="small")
    below.set(xlabel="parameters", ylabel="log residual")
    top.legend(fontsize="x-small")
    return figure, pd.concat(parts, ignore_index=True)


def surface_figure(runs: StudyRuns, shared: Shared) -> tuple[Figure, pd.DataFrame]:
    """The law in N and D: checkpoints of each size with the law's curves and bands, and residuals below."""
    assert shared.found is not None
    sizes = [size for size in runs.sizes if (shared.points["size"] == size).any()]
    figure, panels = plt.subplots(
        2,
        len(sizes),
        sharex="col",
        sharey="row",
        squeeze=False,
        figsize=(2.6 * len(sizes) + 0.6, 4.6),
        height_ratios=(2.2, 1),
        layout="constrained",
    )
    parts = []
    for column, size in enumerate(sizes):
        of_size = shared.points["size"] == size
        parameters = float(shared.points["parameters"][of_size].iloc[0])
        images = shared.points["images"][of_size]
        x = np.geomspace(images.min(), images.max(), CURVE_POINTS)

        def inputs(value: float, parameters: float = parameters) -> dict[str, float]:
            return {"parameters": parameters, "images": value}

        for place, variant in enumerate(runs.variants):
            style, mine = line_style(place), of_size & (shared.points["variant"] == variant)
            band = _band(shared, variant, x, inputs)
            _draw_band(panels[0][column], band, style)
            panels[0][column].plot(shared.points["images"][mine], shared.points["loss"][mine], **_open(style))
            panels[1][column].plot(
                shared.points["images"][mine], np.array(shared.found.residuals)[mine], **_open(style)
            )
            parts.append(band.assign(variant=variant, size=size))
        panels[0][column].set(title=f"{runs.study.size_axis} {size}")
        log_x(panels[0][column])
        panels[1][column].set(xlabel="images seen")
        panels[1][column].axhline(0, color="0.5", linewidth=0.6)
    panels[0][0].set_ylabel(metric_name(runs.study.objective))
    panels[1][0].set_ylabel("log residual")
    handles = [Line2D([], [], label=variant, **line_style(i)) for i, variant in enumerate(runs.variants)]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize="x-small")
    return figure, pd.concat(parts, ignore_index=True)


def profile_figure(laws: Sequence[Shared]) -> tuple[Figure, pd.DataFrame]:
    """For each law with an offset: the cost with E held at a value, above the least. Flat: E is not known."""
    figure, panels = plt.subplots(1, len(laws), figsize=(3.2 * len(laws), 2.6), squeeze=False, layout="constrained")
    parts = []
    for axes, shared in zip(panels[0], laws, strict=True):
        assert shared.found is not None
        offsets = np.linspace(0, shared.points["loss"].min() * 0.999, PROFILE_POINTS)
        rises = profile(shared.points, shared.found.law, offsets) - shared.found.cost
        axes.plot(offsets, rises, **line_style(0) | {"marker": ""})
        axes.axvline(shared.found.offset, color="0.4", linestyle=":", label=f"E = {shared.found.offset:.4g}")
        axes.set(xlabel="E", ylabel="cost above the least")
        axes.set_title(shared.found.law.name, fontsize="x-small")
        axes.legend(fontsize="x-small")
        parts.append(pd.DataFrame({"law": shared.found.law.name, "E": offsets, "rise": rises}))
    return figure, pd.concat(parts, ignore_index=True)


def compute_figure(runs: StudyRuns, found: Compute) -> tuple[Figure, pd.DataFrame]:
    """Loss against FLOPs, a line for each size, the frontier marked; and the loss against size at equal FLOPs."""
    figure, (curves, slices) = plt.subplots(1, 2, figsize=(6.8, 3.2), sharey=True, layout="constrained")
    for place, variant in enumerate(runs.variants):
        style = line_style(place)
        mine = found.curves[found.curves["variant"] == variant]
        for _, size in mine.groupby("size", sort=False):
            curves.plot(size["flops"], size["loss"], color=style["color"], linewidth=0.7, alpha=0.7)
        front = mine[mine["frontier"]].sort_values("flops")
        curves.plot(front["flops"], front["loss"], label=variant, **style | {"markersize": 3.5})
        at = found.slices[found.slices["variant"] == variant]
        for _, budget in at.groupby("flops"):
            slices.plot(budget["parameters"], budget["loss"], color=style["color"], linewidth=0.9)
        best = found.optima[(found.optima["variant"] == variant) & (found.optima["status"] == "ok")]
        slices.plot(best["parameters"], best["loss"], style["marker"], color=style["color"], markersize=5)
    log_x(curves)
    curves.set(xlabel="FLOPs of training", ylabel=metric_name(runs.study.objective))
    curves.set_title("marked: frontier", fontsize="small")
    slices.set(xlabel="parameters")
    if found.reason:
        slices.set(xticks=[])
        slices.text(0.5, 0.5, "no equal FLOPs\nat three sizes", transform=slices.transAxes, ha="center", va="center")
    else:
        log_x(slices)
        slices.set_title("each line equal FLOPs; marked: best size", fontsize="small")
    curves.legend(fontsize="x-small")
    return figure, found.curves


def _open(style: dict[str, Any]) -> dict[str, Any]:
    return {
        "color": style["color"],
        "marker": style["marker"],
        "linestyle": "",
        "markerfacecolor": "none",
        "markersize": 4,
    }


def _band(shared: Shared, variant: str, x: npt.NDArray[np.float64], inputs: Inputs) -> pd.DataFrame:
    """The curve, and quantiles of refitted curves (`low`, `high`) and of runs about them (`run_low`, `run_high`)."""
    assert shared.found is not None
    assert shared.refits is not None
    drawn = [found for found in shared.refits.drawn if found is not None]
    curve = [shared.found.predict(variant, **inputs(float(value))) for value in x]
    lines = np.array([[found.predict(variant, **inputs(float(value))) for value in x] for found in drawn])
    residuals = np.random.default_rng(0).choice(shared.found.residuals, size=(len(drawn), 1))
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.quantile(lines, tails, axis=0)
    run_low, run_high = np.quantile(lines * np.exp(residuals), tails, axis=0)
    columns = {"x": x, "curve": curve, "low": low, "high": high, "run_low": run_low, "run_high": run_high}
    return pd.DataFrame(columns)


def _draw_band(axes: Axes, band: pd.DataFrame, style: dict[str, Any]) -> None:
    axes.fill_between(band["x"], band["run_low"], band["run_high"], color=style["color"], alpha=0.1, linewidth=0)
    axes.fill_between(band["x"], band["low"], band["high"], color=style["color"], alpha=0.25, linewidth=0)
    axes.plot(band["x"], band["curve"], color=style["color"], linestyle=style["linestyle"])
