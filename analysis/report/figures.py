"""Figures of a study: losses by size, training curves, paired differences. Each comes with the numbers behind it."""

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
from ..stats.budgets import View
from ..stats.paired import comparisons, over_seeds

STYLE = Path(__file__).with_name("figures.mplstyle")
MARKERS = "osD^vP*X"
DASHES = ("-", "--", "-.", ":")
MANY = 200
"""More points than these are stored as pixels in a vector figure."""
MOST_LINES = 20
"""With more seeds, a band from the 5th to the 95th percentile takes the place of a line or a point for each."""
SMOOTHING = 40
"""Windows that a training curve is averaged in."""


def scaling_figure(runs: StudyRuns) -> tuple[Figure, pd.DataFrame]:
    """Each objective against parameters: a point for each seed, a line through their means."""
    names = runs.objectives
    figure, panels = plt.subplots(1, len(names), figsize=(4.4 * len(names), 3.2), squeeze=False)
    for axes, objective in zip(panels[0], names, strict=True):
        _scaling_panel(axes, runs, objective)
    panels[0][0].legend()
    return figure, runs.cells[["variant", "size", "seed", "parameters", *names]]


def _scaling_panel(axes: Axes, runs: StudyRuns, objective: str) -> None:
    for place, variant in enumerate(runs.variants):
        cells = runs.cells[runs.cells["variant"] == variant]
        means = cells.groupby("size")[["parameters", objective]].mean()
        style = line_style(place)
        axes.plot(means["parameters"], means[objective], color=style["color"], linestyle=style["linestyle"])
        axes.plot([], [], label=variant, **style)
        dots = {"color": style["color"], "markerfacecolor": "none", "rasterized": len(cells) > MANY}
        axes.plot(cells["parameters"], cells[objective], style["marker"], **dots)
    axes.set(xlabel="parameters", ylabel=metric_name(objective))
    log_x(axes)


def curves_figure(runs: StudyRuns) -> tuple[Figure, pd.DataFrame]:
    """Training loss in windows (thin, each seed) and the objective (mean of the seeds).

    Where there is no validation the training loss, mean of the seeds, is the one that is marked.
    """
    sizes = runs.sizes
    figure, panels = plt.subplots(1, len(sizes), figsize=(2.9 * len(sizes), 3.2), sharey=True, squeeze=False)
    smooth = _windows(runs.history[runs.history["metric"] == TRAIN_LOSS])
    validated = runs.study.objective != TRAIN_LOSS
    validation = runs.history[runs.history["metric"] == runs.study.objective]
    if not validated:
        validation = validation.iloc[:0]
    for axes, size in zip(panels[0], sizes, strict=True):
        for place, variant in enumerate(runs.variants):
            style = line_style(place)
            mine = smooth[(smooth["variant"] == variant) & (smooth["size"] == size)]
            if validated:
                _seed_lines(axes, mine, style["color"])
            checks = validation[(validation["variant"] == variant) & (validation["size"] == size)]
            means = (checks if validated else mine).groupby("images")["value"].mean()
            axes.plot(means.index, means, label=variant, markevery=1 if validated else 8, **style)
        axes.set(title=f"{runs.study.size_axis} {size}", xlabel="images seen")
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    both = f"thin: {metric_name(TRAIN_LOSS)}\nmarked: {metric_name(runs.study.objective)}"
    panels[0][0].set_ylabel(both if validated else metric_name(TRAIN_LOSS))
    panels[0][-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure, pd.concat([smooth, validation[smooth.columns]], ignore_index=True)


def _seed_lines(axes: Axes, curves: pd.DataFrame, color: str) -> None:
    """A thin line for each seed, or the band that most of many are in."""
    if curves["seed"].nunique() <= MOST_LINES:
        for _, seed in curves.groupby("seed"):
            axes.plot(seed["images"], seed["value"], color=color, linewidth=0.5, alpha=0.6)
        return
    ends = curves.groupby("images")["value"].quantile(np.array([0.05, 0.95])).unstack()
    axes.fill_between(ends.index.to_numpy(float), ends[0.05], ends[0.95], color=color, alpha=0.2, linewidth=0)


def differences_figure(runs: StudyRuns, differences: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Paired differences against size; a column of panels for each axis.

    Open: each seed, with its block standard error where there is one; of many seeds the 5th to the 95th percentile.
    Full: their mean, with its 95% interval.
    """
    metrics = list(dict.fromkeys([TRAIN_LOSS, *runs.objectives]))
    shown = differences[differences["metric"].isin(metrics)]
    means = over_seeds(shown)
    axes_names = list(dict.fromkeys(c.axis for c in comparisons(runs)))
    shape = (len(metrics), len(axes_names))
    figure, panels = plt.subplots(*shape, figsize=(3.6 * shape[1], 2.6 * shape[0]), squeeze=False, sharex=True)
    for row, metric in zip(panels, metrics, strict=True):
        for panel, axis in zip(row, axes_names, strict=True):
            _difference_panel(panel, runs, shown, means, metric, axis)
    for panel in panels[-1]:
        panel.set_xlabel(runs.study.size_axis)
        # Of the whole column, below it: names are long.
        names = panel.get_legend_handles_labels()
        panel.legend(*names, loc="upper center", bbox_to_anchor=(0.5, -0.25), fontsize="x-small")
    return figure, shown


def _difference_panel(
    axes: Axes, runs: StudyRuns, seeds: pd.DataFrame, means: pd.DataFrame, metric: str, axis: str
) -> None:
    sizes = {size: place for place, size in enumerate(runs.sizes)}
    mine = [c for c in comparisons(runs) if c.axis == axis]
    for place, comparison in enumerate(mine):
        # The treatment's own colour: a variant has one in all figures.
        style = line_style(runs.variants.index(comparison.treatment))
        shift = min(0.16, 0.8 / len(mine)) * (place - (len(mine) - 1) / 2)
        points, mean = (
            table[
                (table["metric"] == metric)
                & (table["treatment"] == comparison.treatment)
                & (table["control"] == comparison.control)
            ]
            for table in (seeds, means)
        )
        _seed_points(axes, points, sizes, shift - 0.05, style)
        axes.errorbar(
            mean["size"].map(sizes) + shift + 0.05,
            mean["difference"],
            yerr=mean["high"] - mean["difference"],
            fmt=style["marker"],
            color=style["color"],
            capsize=2,
            label=comparison.label,
        )
    axes.axhline(0, color="0.5", linewidth=0.6)
    axes.set_xticks(list(sizes.values()), [str(size) for size in sizes])
    axes.set(ylabel=f"Δ {metric_name(metric)}", title=axis)


def _seed_points(axes: Axes, points: pd.DataFrame, sizes: dict[Any, int], shift: float, style: dict[str, Any]) -> None:
    """A point for each seed, or the bar that most of many are in."""
    if points["seed"].nunique() > MOST_LINES:
        ends = points.groupby("size")["difference"].quantile(np.array([0.05, 0.95])).unstack()
        axes.vlines(ends.index.map(sizes) + shift, ends[0.05], ends[0.95], color=style["color"], alpha=0.4, linewidth=4)
        return
    axes.errorbar(
        points["size"].map(sizes) + shift,
        points["difference"],
        yerr=points["block_se"],
        fmt=style["marker"],
        color=style["color"],
        markerfacecolor="none",
        elinewidth=2,
    )


def views_figure(runs: StudyRuns, views: Sequence[View]) -> tuple[Figure, pd.DataFrame]:
    """Training loss against parameters in each view, which says what else moved with size."""
    figure, panels = plt.subplots(1, len(views), figsize=(3.6 * len(views), 3.4), sharey=True, squeeze=False)
    for axes, view in zip(panels[0], views, strict=True):
        for place, variant in enumerate(runs.variants):
            mine = view.points[view.points["variant"] == variant].groupby("size", as_index=False)
            means = mine[["parameters", "loss"]].mean()
            axes.plot(means["parameters"], means["loss"], label=variant, **line_style(place))
        axes.set(xlabel="parameters")
        log_x(axes)
        axes.set_title(fill(view.title, 44), fontsize="small")
    panels[0][0].set_ylabel(metric_name(TRAIN_LOSS))
    panels[0][-1].legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.02, 0.5))
    numbers = pd.concat([view.points.assign(view=view.name) for view in views])
    return figure, numbers


def _windows(history: pd.DataFrame) -> pd.DataFrame:
    """Means over windows of equally many images."""
    width = history["images"].max() / SMOOTHING
    window = np.minimum(history["images"] // width, SMOOTHING - 1)
    grouped = history.assign(window=window).groupby(["variant", "size", "seed", "metric", "window"], sort=False)
    return grouped.agg(images=("images", "mean"), value=("value", "mean")).reset_index().drop(columns="window")


def line_style(place: int) -> dict[str, Any]:
    """Colour, marker and dashes of the line at a place: told apart in print and by the colour-blind."""
    colors = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    # The second time through the colours, markers and dashes are others.
    turn = place + place // len(colors)
    return {
        "color": colors[place % len(colors)],
        "marker": MARKERS[turn % len(MARKERS)],
        "linestyle": DASHES[turn % len(DASHES)],
    }


def log_x(axes: Axes) -> None:
    """Make the x axis logarithmic, once all is drawn, with round numbers that do not run into each other."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=8))
    axes.xaxis.set_major_formatter(_short if high < 1e11 else LogFormatterSciNotation())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _short(value: float, _: object) -> str:
    """A count as its readers write it: 20k, 500M, 1B."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def metric_name(metric: str) -> str:
    names = {
        TRAIN_LOSS: "training loss",
        "val/loss_ema": "validation loss, EMA weights",
        "val/loss_raw": "validation loss, raw weights",
        "eval/fid_pixels": "Fréchet distance of pixels",
        "eval/fid_inception": "FID during training",
        "eval/captions": "share of captions that hold",
    }
    return names.get(metric, metric)
