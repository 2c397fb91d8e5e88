"""Figures of a study: losses by size, training curves, equal budgets. Each is returned with the numbers in it.

Where the losses of variants lie too close to be told apart, a second row of panels shows their differences to the first
variant, paired by seed.
"""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.special import stdtrit

from lina_lab.records.runstore import TRAIN_LOSS

from ..load.runs import StudyRuns
from ..stats.budgets import BudgetView
from .metric_names import metric_name
from .styles import LEGEND_ROOM, dots_style, line_style, log_x, shifts, short, variant_legend

STYLE = Path(__file__).with_name("figures.mplstyle")
MAX_VECTOR_POINTS = 200
"""More points than this are stored as pixels in a vector figure."""
MAX_LINES = 20
"""For more seeds than this, a band from the 5th to the 95th percentile replaces a line or a point for each."""
SMOOTHING = 40
"""Number of windows over which a training curve is averaged."""
MARKED = 8
"""Most markers on a curve."""
CUT = 0.1
"""The first share of the images, whose high losses are cut off a curve's axis."""
CONFIDENCE = 0.95
MAX_INTERVALS = 5
"""For more variants than this, intervals along a curve would hide each other and are left out."""
RATIOS = (1.3, 1)
"""Heights of the losses and of their differences."""


def scaling_figure(runs: StudyRuns) -> tuple[Figure, pd.DataFrame]:
    """Draw each objective against parameters: a point for each seed, a line through their means, and differences."""
    names, several = runs.objectives, len(runs.variants) > 1
    figure, panels = _rows(len(names), several, width=3.4)
    parameters = runs.cells.groupby("size")["parameters"].mean()
    places = dict(zip(runs.variants, shifts(len(runs.variants), list(parameters)), strict=True))
    for column, objective in zip(panels.T, names, strict=True):
        points = runs.cells[["variant", "size", "seed", "parameters", objective]].rename(columns={objective: "value"})
        points = points.assign(x=points["parameters"] * points["variant"].map(places).astype(float))
        _seeds_and_means(column[0], runs, points)
        column[0].set(ylabel=metric_name(objective))
        if several:
            _differences(column[1], runs, points, ["size"])
        _size_axis(column, parameters)
    variant_legend(figure, runs.variants)
    return figure, runs.cells[["variant", "size", "seed", "parameters", *names]]


def curves_figure(runs: StudyRuns) -> tuple[Figure, pd.DataFrame]:
    """Draw training curves: the training loss of each seed (thin), the objective, mean over seeds (markers).

    A study without validation shows the training loss, mean over seeds, with markers. The high losses of the first
    images are cut off.
    """
    sizes, several = runs.sizes, len(runs.variants) > 1
    figure, panels = _rows(len(sizes), several, width=2.5, sharey="row")
    smooth = _windows(runs.history[runs.history["metric"] == TRAIN_LOSS])
    validated = runs.study.objective != TRAIN_LOSS
    marked = runs.history[runs.history["metric"] == runs.study.objective] if validated else smooth
    for column, size in zip(panels.T, sizes, strict=True):
        thin, thick = smooth[smooth["size"] == size], marked[marked["size"] == size].assign(x=lambda t: t["images"])
        for index, variant in enumerate(runs.variants):
            style, lines, marks = line_style(index), *(t[t["variant"] == variant] for t in (thin, thick))
            if validated:
                _seed_lines(column[0], lines, style["color"])
            means = marks.groupby("images")["value"].mean()
            column[0].plot(means.index, means, **style, markevery=_every(index, len(means)))
        if several:
            late = thick[thick["images"] >= CUT * thick["images"].max()]
            _differences(column[1], runs, _moved(late, runs.variants), ["images"])
        column[0].set(title=f"{runs.study.size_axis} {size}")
        column[-1].set(xlabel="images seen")
        column[-1].xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        column[-1].xaxis.set_major_formatter(short)
    shown = [smooth, marked] if validated else [smooth]
    cut = _cut(panels[0], shown)
    both = f"thin: {metric_name(TRAIN_LOSS)}\nmarkers: {metric_name(runs.study.objective)}"
    panels[0][0].set_ylabel((both if validated else metric_name(TRAIN_LOSS)) + cut)
    variant_legend(figure, runs.variants)
    return figure, pd.concat([smooth, marked[smooth.columns]], ignore_index=True) if validated else smooth


def views_figure(runs: StudyRuns, views: Sequence[BudgetView]) -> tuple[Figure, pd.DataFrame]:
    """Draw training loss against parameters at each equal budget, and differences; titles name the confounders."""
    several = len(runs.variants) > 1
    figure, panels = _rows(len(views), several, width=2.7, sharey="row")
    parameters = runs.cells.groupby("size")["parameters"].mean()
    places = dict(zip(runs.variants, shifts(len(runs.variants), list(parameters)), strict=True))
    for column, view in zip(panels.T, views, strict=True):
        points = view.points.rename(columns={"loss": "value"})
        points = points.assign(x=points["parameters"] * points["variant"].map(places).astype(float))
        _seeds_and_means(column[0], runs, points)
        if several:
            _differences(column[1], runs, points, ["size"])
        _size_axis(column, parameters)
        column[0].set_title(fill(view.title, 36), fontsize="small")
    panels[0][0].set_ylabel(metric_name(TRAIN_LOSS))
    variant_legend(figure, runs.variants)
    return figure, pd.concat([view.points.assign(view=view.name) for view in views])


def _rows(columns: int, several: bool, *, width: float, sharey: Any = False) -> tuple[Figure, Any]:
    """Make a row of panels for losses, and one for differences if there are several variants."""
    ratios = RATIOS if several else RATIOS[:1]
    size = (width * columns + LEGEND_ROOM, 2.3 * sum(ratios))
    shape: dict[str, Any] = {"figsize": size, "height_ratios": ratios, "squeeze": False}
    return plt.subplots(len(ratios), columns, sharex="col", sharey=sharey, **shape)


def _size_axis(column: Sequence[Axes], parameters: "pd.Series[float]") -> None:
    log_x(column[-1], [float(value) for value in parameters])
    column[-1].set_xlabel("parameters")


def _seeds_and_means(axes: Axes, runs: StudyRuns, points: pd.DataFrame) -> None:
    """Draw every seed, a thin line that joins the variants of a seed, and a line through the means of each variant."""
    order = {variant: index for index, variant in enumerate(runs.variants)}
    ordered = points.sort_values("variant", key=lambda names: names.map(order))
    if 1 < points["seed"].nunique() <= MAX_LINES:
        for _, pair in ordered.groupby(["size", "seed"]):
            axes.plot(pair["x"], pair["value"], color="0.75", linewidth=0.5, zorder=0)
    for variant, mine in points.groupby("variant", sort=False):
        index = order[str(variant)]
        means = mine.groupby("size", sort=False)[["x", "value"]].mean().sort_values("x")
        axes.plot(means["x"], means["value"], **line_style(index) | {"marker": "", "linewidth": 0.9, "alpha": 0.8})
        axes.plot(mine["x"], mine["value"], **dots_style(index), rasterized=len(mine) > MAX_VECTOR_POINTS)


def _differences(axes: Axes, runs: StudyRuns, points: pd.DataFrame, by: list[str]) -> None:
    """Draw differences to the first variant, paired by seed: each seed (open), means and 95% intervals (filled).

    Args:
        axes: the panel.
        runs: the study.
        points: `variant`, `seed`, `value`, `x` (position on the axis), and `by`.
        by: what else a pair has in common.
    """
    differences = paired_with_first(runs, points, by)
    for variant, mine in differences.groupby("variant", sort=False):
        index = runs.variants.index(str(variant))
        if by == ["size"] and mine["seed"].nunique() <= MAX_LINES:
            axes.plot(mine["x"], mine["value"], **dots_style(index) | {"markersize": 2.5, "alpha": 0.6})
        groups = mine.groupby(by, sort=False)
        means = groups.agg(x=("x", "mean"), value=("value", "mean"), sd=("value", "std"), n=("value", "size"))
        means = means.sort_values("x")
        axes.plot(means["x"], means["value"], **line_style(index) | {"marker": "", "linewidth": 0.8, "alpha": 0.8})
        shown = means if by == ["size"] else means[_every(index, len(means))]
        freedom = np.maximum(shown["n"] - 1, 1)
        reach = stdtrit(freedom, (1 + CONFIDENCE) / 2) * shown["sd"] / np.sqrt(shown["n"])
        drawn = reach.notna().any() and (by == ["size"] or len(runs.variants) <= MAX_INTERVALS)
        style = {"fmt": line_style(index)["marker"], "color": line_style(index)["color"], "capsize": 2}
        axes.errorbar(shown["x"], shown["value"], yerr=reach.fillna(0) if drawn else None, **style)
    axes.axhline(0, color="0.5", linewidth=0.6, zorder=0)
    axes.set_ylabel("minus the first variant")
    if len(axes.get_shared_y_axes().get_siblings(axes)) > 1:
        axes.label_outer()


def paired_with_first(runs: StudyRuns, points: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return each point's `value` minus that of the first variant with the same seed and the same `by`."""
    keys = [*by, "seed"]
    first = points[points["variant"] == runs.variants[0]][[*keys, "value"]]
    paired = points[points["variant"] != runs.variants[0]].merge(first, on=keys, suffixes=("", " of the first"))
    return paired.assign(value=paired["value"] - paired["value of the first"]).drop(columns="value of the first")


def _seed_lines(axes: Axes, curves: pd.DataFrame, color: str) -> None:
    """Draw a thin line for each seed, or a band for many seeds."""
    if curves["seed"].nunique() <= MAX_LINES:
        for _, seed in curves.groupby("seed"):
            axes.plot(seed["images"], seed["value"], color=color, linewidth=0.3, alpha=0.25)
        return
    ends = curves.groupby("images")["value"].quantile(np.array([0.05, 0.95])).unstack()
    axes.fill_between(ends.index.to_numpy(float), ends[0.05], ends[0.95], color=color, alpha=0.15, linewidth=0)


def _every(index: int, length: int) -> slice:
    """Return which points of a curve have markers: few, and other ones for each variant."""
    step = max(1, -(-length // MARKED))
    return slice(index * max(1, step // 4) % step, None, step)


def _cut(row: Sequence[Axes], tables: Sequence[pd.DataFrame]) -> str:
    """Cut the losses of the first images off the axis; returns what the axis has to say about it."""
    late = [table.loc[table["images"] >= CUT * table["images"].max(), "value"] for table in tables]
    low, high = min(values.min() for values in late), max(values.quantile(0.995) for values in late)
    top = high + 0.05 * (high - low)
    if max(table["value"].max() for table in tables) <= top:
        return ""
    row[0].set_ylim(low - 0.05 * (high - low), top)
    return f"\n(cut at {top:.3g})"


def _moved(points: pd.DataFrame, variants: Sequence[str]) -> pd.DataFrame:
    """Move the markers of each variant along the axis, so that their intervals do not lie on each other."""
    amounts = points["images"].nunique()
    spacing = (points["images"].max() - points["images"].min()) / max(min(amounts, MARKED) - 1, 1)
    places = dict(zip(variants, np.linspace(-0.25, 0.25, len(variants)), strict=True))
    return points.assign(x=points["images"] + spacing * points["variant"].map(places).astype(float))


def _windows(history: pd.DataFrame) -> pd.DataFrame:
    """Average over windows of equally many images."""
    width = history["images"].max() / SMOOTHING
    window = np.minimum(history["images"] // width, SMOOTHING - 1)
    grouped = history.assign(window=window).groupby(["variant", "size", "seed", "metric", "window"], sort=False)
    return grouped.agg(images=("images", "mean"), value=("value", "mean")).reset_index().drop(columns="window")
