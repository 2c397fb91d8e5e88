"""Figures of a study: losses by size, training curves, equal budgets. Each is returned with the numbers in it."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter

from lina_lab.records.runstore import TRAIN_LOSS

from ..load.runs import StudyRuns
from ..stats.budgets import BudgetView
from .metric_names import metric_name

STYLE = Path(__file__).with_name("figures.mplstyle")
MARKERS = "osD^vP*X"
DASHES = ("-", "--", "-.", ":")
MAX_VECTOR_POINTS = 200
"""More points than this are stored as pixels in a vector figure."""
MAX_LINES = 20
"""For more seeds than this, a band from the 5th to the 95th percentile replaces a line or a point for each."""
SMOOTHING = 40
"""Number of windows over which a training curve is averaged."""
LEGEND_INCHES = 1.8
"""Room for a legend beside the panels."""


def scaling_figure(runs: StudyRuns) -> tuple[Figure, pd.DataFrame]:
    """Draw each objective against parameters: a point for each seed, a line through their means."""
    names = runs.objectives
    figure, panels = plt.subplots(1, len(names), figsize=(4.4 * len(names), 3.2), squeeze=False)
    for axes, objective in zip(panels[0], names, strict=True):
        for index, variant in enumerate(runs.variants):
            cells, style = runs.cells[runs.cells["variant"] == variant], line_style(index)
            means = cells.groupby("size")[["parameters", objective]].mean()
            axes.plot(means["parameters"], means[objective], color=style["color"], linestyle=style["linestyle"])
            axes.plot([], [], label=variant, **style)
            dots = {"color": style["color"], "markerfacecolor": "none", "rasterized": len(cells) > MAX_VECTOR_POINTS}
            axes.plot(cells["parameters"], cells[objective], style["marker"], **dots)
        axes.set(xlabel="parameters", ylabel=metric_name(objective))
        log_x(axes)
    panels[0][0].legend()
    return figure, runs.cells[["variant", "size", "seed", "parameters", *names]]


def curves_figure(runs: StudyRuns) -> tuple[Figure, pd.DataFrame]:
    """Draw training curves: the training loss of each seed (thin), and the objective, mean over seeds (markers).

    A study without validation shows the training loss, mean over seeds, with markers.
    """
    sizes = runs.sizes
    width = 2.9 * len(sizes) + LEGEND_INCHES
    figure, panels = plt.subplots(1, len(sizes), figsize=(width, 3.2), sharey=True, squeeze=False)
    smooth = _windows(runs.history[runs.history["metric"] == TRAIN_LOSS])
    validated = runs.study.objective != TRAIN_LOSS
    marked = runs.history[runs.history["metric"] == runs.study.objective] if validated else smooth
    for axes, size in zip(panels[0], sizes, strict=True):
        for index, variant in enumerate(runs.variants):
            style = line_style(index)
            lines, marks = (t[(t["variant"] == variant) & (t["size"] == size)] for t in (smooth, marked))
            if validated:
                _seed_lines(axes, lines, style["color"])
            means = marks.groupby("images")["value"].mean()
            axes.plot(means.index, means, label=variant, markevery=1 if validated else 8, **style)
        axes.set(title=f"{runs.study.size_axis} {size}", xlabel="images seen")
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    both = f"thin: {metric_name(TRAIN_LOSS)}\nmarkers: {metric_name(runs.study.objective)}"
    panels[0][0].set_ylabel(both if validated else metric_name(TRAIN_LOSS))
    panels[0][-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure, pd.concat([smooth, marked[smooth.columns]], ignore_index=True) if validated else smooth


def _seed_lines(axes: Axes, curves: pd.DataFrame, color: str) -> None:
    """Draw a thin line for each seed, or a band for many seeds."""
    if curves["seed"].nunique() <= MAX_LINES:
        for _, seed in curves.groupby("seed"):
            axes.plot(seed["images"], seed["value"], color=color, linewidth=0.5, alpha=0.6)
        return
    ends = curves.groupby("images")["value"].quantile(np.array([0.05, 0.95])).unstack()
    axes.fill_between(ends.index.to_numpy(float), ends[0.05], ends[0.95], color=color, alpha=0.2, linewidth=0)


def views_figure(runs: StudyRuns, views: Sequence[BudgetView]) -> tuple[Figure, pd.DataFrame]:
    """Draw training loss against parameters at each equal budget; titles name the confounders."""
    width = 3.6 * len(views) + LEGEND_INCHES
    figure, panels = plt.subplots(1, len(views), figsize=(width, 3.4), sharey=True, squeeze=False)
    for axes, view in zip(panels[0], views, strict=True):
        for index, variant in enumerate(runs.variants):
            mine = view.points[view.points["variant"] == variant].groupby("size", as_index=False)
            means = mine[["parameters", "loss"]].mean()
            axes.plot(means["parameters"], means["loss"], label=variant, **line_style(index))
        axes.set(xlabel="parameters")
        log_x(axes)
        axes.set_title(fill(view.title, 44), fontsize="small")
    panels[0][0].set_ylabel(metric_name(TRAIN_LOSS))
    panels[0][-1].legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure, pd.concat([view.points.assign(view=view.name) for view in views])


def _windows(history: pd.DataFrame) -> pd.DataFrame:
    """Average over windows of equally many images."""
    width = history["images"].max() / SMOOTHING
    window = np.minimum(history["images"] // width, SMOOTHING - 1)
    grouped = history.assign(window=window).groupby(["variant", "size", "seed", "metric", "window"], sort=False)
    return grouped.agg(images=("images", "mean"), value=("value", "mean")).reset_index().drop(columns="window")


def line_style(index: int) -> dict[str, Any]:
    """Return color, marker and dashes of a line; lines differ in print and for color-blind readers too."""
    colors = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    # When the colors repeat, markers and dashes are shifted.
    shifted = index + index // len(colors)
    return {
        "color": colors[index % len(colors)],
        "marker": MARKERS[shifted % len(MARKERS)],
        "linestyle": DASHES[shifted % len(DASHES)],
    }


def log_x(axes: Axes) -> None:
    """Make the x axis logarithmic with round tick labels that do not overlap; call it after drawing."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=8))
    axes.xaxis.set_major_formatter(_short if high < 1e11 else LogFormatterSciNotation())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _short(value: float, _: object) -> str:
    """Write a count as 20k, 500M, 1B."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"
