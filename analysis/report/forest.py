"""Forest plot of paired differences: a row for each comparison and size, a column for each metric."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lina_lab.records.runstore import TRAIN_LOSS

from ..load.runs import StudyRuns
from ..stats.paired import Comparison, comparisons, mean_differences
from .figures import MAX_LINES
from .styles import line_style
from .metric_names import metric_name

ROW_INCHES = 0.17
SHIFT = 0.18
"""Seeds are drawn above the middle of a row, their mean below it."""


def differences_figure(runs: StudyRuns, differences: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Draw the paired differences of every comparison and size.

    Open: each seed, with its block standard error where there is one; for many seeds, a bar from the 5th to the 95th
    percentile. Filled: their mean with its 95% confidence interval.

    Returns:
        The figure, and the differences in it.
    """
    known = set(differences["metric"])
    metrics = [name for name in dict.fromkeys([*runs.objectives, TRAIN_LOSS]) if name in known]
    shown = differences[differences["metric"].isin(metrics)]
    means, pairs = mean_differences(shown), comparisons(runs)
    rows = _rows(pairs, shown)
    height = ROW_INCHES * (len(rows) + 1) + 0.6
    width = 2.2 + 2.6 * len(metrics)
    figure, panels = plt.subplots(1, len(metrics), figsize=(width, height), sharey=True, squeeze=False)
    for axes, metric in zip(panels[0], metrics, strict=True):
        for index, (pair, size) in enumerate(rows):
            if size is not None:
                # A variant has one color in all figures.
                style = line_style(runs.variants.index(pair.treatment))
                seeds, mean = (_select(table, pair, size, metric) for table in (shown, means))
                _draw_row(axes, index, seeds, mean, style)
        axes.axvline(0, color="0.5", linewidth=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set(title=f"Δ {metric_name(metric)}", ylim=(len(rows) - 0.4, -0.6))
        axes.tick_params(axis="y", length=0)
    _label_rows(panels[0][0], rows, runs)
    return figure, shown


Row = tuple[Comparison, Any]
"""A comparison and a size; the size None stands for the comparison's heading."""


def _rows(pairs: list[Comparison], shown: pd.DataFrame) -> list[Row]:
    rows: list[Row] = []
    for pair in pairs:
        mine = shown[(shown["treatment"] == pair.treatment) & (shown["baseline"] == pair.baseline)]
        sizes = list(dict.fromkeys(mine["size"]))
        rows += [(pair, None), *((pair, size) for size in sizes)] if len(sizes) > 1 else [(pair, s) for s in sizes]
    return rows


def _select(table: pd.DataFrame, pair: Comparison, size: Any, metric: str) -> pd.DataFrame:
    same = (table["treatment"] == pair.treatment) & (table["baseline"] == pair.baseline)
    found: pd.DataFrame = table[same & (table["size"] == size) & (table["metric"] == metric)]
    return found


def _draw_row(axes: Axes, index: int, seeds: pd.DataFrame, mean: pd.DataFrame, style: dict[str, Any]) -> None:
    color, marker = style["color"], style["marker"]
    if len(seeds) > MAX_LINES:
        low, high = np.quantile(seeds["difference"], (0.05, 0.95))
        axes.hlines(index - SHIFT, low, high, color=color, alpha=0.4, linewidth=4)
    else:
        heights = np.full(len(seeds), index - SHIFT)
        dots = {"fmt": marker, "color": color, "markerfacecolor": "none", "markersize": 3}
        axes.errorbar(seeds["difference"], heights, xerr=seeds["block_se"], **dots)
    # The mean of one seed is that seed.
    mean = mean[mean["seeds"] > 1]
    reach = mean["high"] - mean["difference"]
    axes.errorbar(mean["difference"], np.full(len(mean), index + SHIFT), xerr=reach, fmt=marker, color=color, capsize=2)


def _label_rows(axes: Axes, rows: list[Row], runs: StudyRuns) -> None:
    headed = {pair.label for pair, size in rows if size is None}
    names = []
    for pair, size in rows:
        own = f"{runs.study.size_axis} {size}"
        names.append(pair.label if size is None else own if pair.label in headed else f"{pair.label}, {own}")
    axes.set_yticks(range(len(rows)), names)
    for name, (_, size) in zip(axes.get_yticklabels(), rows, strict=True):
        if size is None:
            name.set_fontweight("bold")
