"""Forest plots: paired differences with the primary comparison on top, and multipliers with E pinned and free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lina_lab.decisions.verdicts import Outcome

from ..load.runs import StudyRuns
from ..stats.exploratory import Kind
from ..stats.multipliers import Multiplier, Resource
from ..stats.seedwise import Estimate
from ..stats.verdicts import PrimaryVerdict
from .figures import MAX_LINES
from .metric_names import metric_name
from .styles import line_style, log_x

ROW_INCHES = 0.19
SHIFT = 0.2
"""Seeds are drawn above the middle of a row, their mean below it."""
HELD = " *"
"""Follows the name of a row whose difference holds after the correction."""
RESOURCES = {Resource.PARAMETERS: "parameters", Resource.IMAGES: "images", Resource.FLOPS: "FLOPs"}
WORTH_SHOWN = 1000.0
"""Intervals of multipliers are cut off beyond this many times, and beyond its inverse."""
STRIPE: dict[str, Any] = {"color": "0.95", "linewidth": 0, "zorder": -2}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a forest plot; a heading has no seeds and no mean."""

    label: str
    variant: str = ""
    """The variant whose color and marker it has."""
    seeds: pd.DataFrame | None = None
    """`difference` and `block_se` of each seed."""
    mean: Mapping[str, float] | None = None
    """`difference`, `low`, `high`; NaN ends where there is no interval."""
    margin: float | None = None
    bold: bool = False


def differences_figure(
    runs: StudyRuns,
    differences: pd.DataFrame,
    table: pd.DataFrame,
    metrics: Sequence[str],
    verdict: PrimaryVerdict | None = None,
    kind: Kind = Kind.DIFFERENCE,
) -> tuple[Figure, pd.DataFrame]:
    """Draw differences, or interactions, of every comparison and size, a panel for each metric.

    Open: each seed, with its block standard error where there is one; for many seeds, a bar from the 5th to the 95th
    percentile. Filled: their mean with its 95% confidence interval.

    Args:
        runs: the study.
        differences: see `stats.paired.paired_differences`; of interactions `stats.interactions.interaction_values`.
        table: see `stats.exploratory.exploratory`.
        metrics: those that are drawn; each has differences.
        verdict: drawn as the first row, if given, which then is the only metric's.
        kind: of the rows that are drawn; interactions are of logarithms.

    Returns:
        The figure, and the differences in it.
    """
    drawn = table[table["metric"].isin(metrics) & (table["kind"] == kind)]
    logs = kind is Kind.INTERACTION or (verdict is not None and verdict.scale == "log")
    rows = {metric: _rows(runs, differences, drawn, metric, verdict) for metric in metrics}
    labels = [row.label for row in rows[metrics[0]]]
    height = ROW_INCHES * (len(labels) + 1) + 0.7
    width = 2.4 + (4.2 if len(metrics) == 1 else 2.6 * len(metrics))
    figure, panels = plt.subplots(1, len(metrics), figsize=(width, height), sharey=True, squeeze=False)
    for axes, metric in zip(panels[0], metrics, strict=True):
        for place, row in enumerate(rows[metric]):
            _draw_row(axes, place, row, runs.variants)
        axes.axvline(0, color="0.5", linewidth=0.6, zorder=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        what = f"log ratio of {metric_name(metric)}" if logs else f"difference in {metric_name(metric)}"
        axes.set(xlabel=what, ylim=(len(labels) - 0.4, -0.6))
        axes.tick_params(axis="y", length=0)
    panels[0][0].set_yticks(range(len(labels)), labels)
    for text, row in zip(panels[0][0].get_yticklabels(), rows[metrics[0]], strict=True):
        text.set_fontweight("bold" if row.bold else "normal")
    shown = differences[differences["metric"].isin(metrics)]
    return figure, shown.drop(columns=[name for name in ("block_reason",) if name in shown])


def _rows(
    runs: StudyRuns, differences: pd.DataFrame, table: pd.DataFrame, metric: str, verdict: PrimaryVerdict | None
) -> list[Row]:
    axis = runs.study.size_axis
    rows = [] if verdict is None else [_primary_row(verdict, axis)]
    kept = table
    means, each = (_by_point(points[points["metric"] == metric]) for points in (kept, differences))
    # Every panel has the same rows, so that their labels are shared; a comparison may lack some of the metrics.
    for (label, treatment, baseline), group in kept.groupby(["comparison", "treatment", "baseline"], sort=False):
        sizes = [size for size in runs.sizes if size in set(group["size"])]
        if len(sizes) > 1:
            rows.append(Row(label=str(label), bold=True))
        for size in sizes:
            point = (label, treatment, baseline, size)
            mine = means.get(point, kept[:0])
            held = mine["outcome"].isin([Outcome.LOWER, Outcome.HIGHER]).any()
            name = f"{axis} {size}" if len(sizes) > 1 else f"{label}, {axis} {size}"
            rows.append(
                Row(
                    label=name + (HELD if held else ""),
                    variant=str(treatment),
                    seeds=each.get(point, differences[:0]),
                    mean=dict(mine.iloc[0][["difference", "low", "high"]].astype(float)) if len(mine) else None,
                )
            )
    return rows


def _primary_row(verdict: PrimaryVerdict, axis: str) -> Row:
    where = f"growth over {axis}" if verdict.quantity == "growth" else f"{axis} {verdict.sizes[-1]}"
    interval = verdict.interval
    return Row(
        label=f"PRIMARY: {verdict.label}, {where}",
        variant=verdict.treatment,
        seeds=pd.DataFrame({"difference": list(verdict.values.values()), "block_se": np.nan}),
        mean={"difference": interval.value, "low": interval.low, "high": interval.high},
        margin=verdict.margin,
        bold=True,
    )


def _by_point(table: pd.DataFrame) -> dict[Any, pd.DataFrame]:
    """Return the rows of each comparison and size."""
    return dict(iter(table.groupby(["comparison", "treatment", "baseline", "size"], sort=False)))


def _draw_row(axes: Axes, place: int, row: Row, variants: Sequence[str]) -> None:
    if row.seeds is None:
        return
    style = line_style(variants.index(row.variant))
    color, marker = style["color"], style["marker"]
    if place % 2:
        axes.axhspan(place - 0.5, place + 0.5, **STRIPE)
    if row.margin is not None:
        axes.fill_betweenx([place - 0.5, place + 0.5], -row.margin, row.margin, color="0.85", linewidth=0, zorder=-1)
    several = len(row.seeds) > 1
    if len(row.seeds) > MAX_LINES:
        low, high = np.quantile(row.seeds["difference"], (0.05, 0.95))
        axes.hlines(place - SHIFT, low, high, color=color, alpha=0.4, linewidth=4)
    else:
        heights = np.full(len(row.seeds), place - SHIFT if several else place)
        dots = {"fmt": marker, "color": color, "markerfacecolor": "none", "markersize": 3, "alpha": 0.7}
        axes.errorbar(row.seeds["difference"], heights, xerr=row.seeds["block_se"].fillna(0), **dots)
    # The mean of one seed is that seed.
    if row.mean is not None and several:
        reach = [
            [max(row.mean["difference"] - row.mean["low"], 0)],
            [max(row.mean["high"] - row.mean["difference"], 0)],
        ]
        there = not np.isnan(row.mean["low"])
        axes.errorbar(
            [row.mean["difference"]], [place + SHIFT], xerr=reach if there else None, fmt=marker, color=color, capsize=2
        )


def multipliers_figure(found: Sequence[Multiplier], variants: Sequence[str]) -> tuple[Figure, pd.DataFrame]:
    """Draw how many times a resource of the baseline the treatment is worth, for every pair, a panel for each resource.

    Filled: with E = 0. Open: with E by its profile.
    """
    resources = list(dict.fromkeys(one.resource for one in found))
    pairs = list(dict.fromkeys((one.treatment, one.baseline) for one in found))
    height = 0.32 * len(pairs) + 1.1
    figure, panels = plt.subplots(
        1, len(resources), figsize=(3.0 + 2.4 * len(resources), height), sharey=True, squeeze=False
    )
    for axes, resource in zip(panels[0], resources, strict=True):
        mine = {(one.treatment, one.baseline): one for one in found if one.resource == resource}
        for place, pair in enumerate(pairs):
            if place % 2:
                axes.axhspan(place - 0.5, place + 0.5, **STRIPE)
            if pair in mine:
                style = line_style(variants.index(pair[0]))
                _draw_estimate(axes, place - SHIFT, mine[pair].pinned, style, "full")
                _draw_estimate(axes, place + SHIFT, mine[pair].free, style, "none")
        axes.set(ylim=(len(pairs) - 0.4, -0.6), xlabel=f"times the {RESOURCES[resource]} of the baseline")
        axes.tick_params(axis="y", length=0)
        # A linear axis would begin below zero.
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, 1 / WORTH_SHOWN), min(high, WORTH_SHOWN))
        log_x(axes)
        axes.axvline(1, color="0.5", linewidth=0.6, zorder=0)
    panels[0][0].set_yticks(range(len(pairs)), [f"{treatment}\nagainst {baseline}" for treatment, baseline in pairs])
    look: dict[str, Any] = {"color": "0.3", "marker": "o", "linestyle": "-"}
    handles = [Line2D([], [], label="E = 0", **look), Line2D([], [], label="E free", fillstyle="none", **look)]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    columns = [
        {"treatment": one.treatment, "baseline": one.baseline, "resource": str(one.resource), "E": name}
        | {"value": estimate.value, "low": estimate.low, "high": estimate.high}
        for one in found
        for name, estimate in (("0", one.pinned), ("free", one.free))
    ]
    return figure, pd.DataFrame(columns)


def _draw_estimate(axes: Axes, place: float, estimate: Estimate, style: Mapping[str, Any], fill: str) -> None:
    if not np.isfinite(estimate.value):
        return
    look: dict[str, Any] = {"fmt": style["marker"], "color": style["color"], "fillstyle": fill, "capsize": 2}
    reach = [[max(estimate.value - estimate.low, 0)], [max(estimate.high - estimate.value, 0)]]
    axes.errorbar([estimate.value], [place], xerr=reach if estimate.known else None, **look)
