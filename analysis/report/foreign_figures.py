"""Figures of a table of runs: the law against its points, and losses at equal FLOPs."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from ..stats.foreign import VariantFit
from ..stats.run_compute import RunCompute
from ..stats.status import FitStatus
from .styles import log_x

CURVES = 6
"""Sizes whose curve is drawn."""
CURVE_POINTS = 60
COLORS = "viridis"
WIDTH, HEIGHT = 3.6, 3.0


def law_figure(variants: Sequence[VariantFit]) -> tuple[Figure, pd.DataFrame] | None:
    """Draw the points and the law of each variant, and the residuals below; None where no law holds."""
    shown = [variant for variant in variants if variant.preferred.holds]
    if not shown:
        return None
    shape: dict[str, Any] = {"figsize": (WIDTH * len(shown) + 0.9, 1.6 * HEIGHT), "height_ratios": (2.2, 1)}
    figure, panels = plt.subplots(2, len(shown), squeeze=False, **shape)
    parts = [_law_panels(figure, panels[:, index], variant) for index, variant in enumerate(shown)]
    panels[0][0].set_ylabel("loss")
    panels[1][0].set_ylabel("log residual")
    return figure, pd.concat(parts, ignore_index=True)


def _law_panels(figure: Figure, panels: Sequence[Axes], variant: VariantFit) -> pd.DataFrame:
    top, below = panels
    law, points = variant.preferred.fit, variant.points
    x = law.law.inputs[-1]
    norm = LogNorm(points["N"].min(), points["N"].max())
    dots = top.scatter(points[x], points["loss"], c=points["N"], norm=norm, cmap=COLORS, s=12, linewidths=0)
    if x == "D":
        sizes = np.array(sorted(points["size"].unique()))
        chosen = sizes[np.unique(np.linspace(0, len(sizes) - 1, CURVES).round().astype(int))]
        for size in chosen:
            mine = points[points["size"] == size]
            grid = np.geomspace(mine["D"].min() / 1.5, mine["D"].max() * 1.5, CURVE_POINTS)
            curve = [law.predict(law.variants[0], N=float(size), D=float(data)) for data in grid]
            top.plot(grid, curve, color=mpl.colormaps[COLORS](norm(size)), linewidth=1)
        figure.colorbar(dots, ax=panels[0], label="N", pad=0.02)
    else:
        grid = np.geomspace(points["N"].min(), points["N"].max(), CURVE_POINTS)
        top.plot(grid, [law.predict(law.variants[0], N=float(size)) for size in grid], color="0.3", linewidth=1)
    below.scatter(points["N"], law.residuals, c=points["N"], norm=norm, cmap=COLORS, s=8, linewidths=0)
    below.axhline(0, color="0.5", linewidth=0.6)
    for axes, label in ((top, x), (below, "N")):
        log_x(axes)
        axes.set_xlabel(label)
    top.set_title(f"{variant.name}\n{law.law.name}" if variant.name != "all" else law.law.name, fontsize="small")
    return points.assign(residual=law.residuals)


def isoflop_figure(variants: Sequence[VariantFit]) -> tuple[Figure, pd.DataFrame] | None:
    """Draw losses at equal FLOPs, the growth of the best size, and the lowest loss; a row for each variant.

    None where no variant has a best size at any budget.
    """
    shown = [(v, v.compute) for v in variants if v.compute is not None and len(v.compute.slices)]
    shown = [(v, found) for v, found in shown if (found.optima["status"] == FitStatus.OK).any()]
    if not shown:
        return None
    figure, panels = plt.subplots(len(shown), 3, figsize=(3 * WIDTH, HEIGHT * len(shown)), squeeze=False)
    for row, (variant, found) in zip(panels, shown, strict=True):
        _slice_panel(figure, row[0], found)
        _growth_panel(row[1], found)
        _frontier_panel(row[2], found)
        if variant.name != "all":
            row[0].set_title(variant.name, fontsize="small")
    return figure, pd.concat([found.slices for _, found in shown], ignore_index=True)


def _held(found: RunCompute) -> pd.DataFrame:
    return found.optima[found.optima["status"] == FitStatus.OK]


def _slice_panel(figure: Figure, axes: Axes, found: RunCompute) -> None:
    """Draw loss against size at each budget, with its parabola and its minimum."""
    budgets = found.slices["flops"]
    norm = LogNorm(budgets.min(), max(budgets.max(), budgets.min() * 1.01))
    dots = axes.scatter(found.slices["N"], found.slices["loss"], c=budgets, norm=norm, cmap=COLORS, s=10, linewidths=0)
    for flops, low, high, size, loss in _held(found)[["flops", "low", "high", "size", "loss"]].to_numpy(float):
        at = found.slices[(budgets == flops) & found.slices["N"].between(low, high)]
        x = np.log(at["N"].to_numpy(float))
        parabola = np.polyfit(x - x.mean(), at["loss"].to_numpy(float), 2)
        grid = np.linspace(np.log(low), np.log(high), CURVE_POINTS)
        color = mpl.colormaps[COLORS](norm(flops))
        axes.plot(np.exp(grid), np.polyval(parabola, grid - x.mean()), color=color, linewidth=0.9)
        axes.plot([size], [loss], "D", color=color, markersize=4.5, markeredgecolor="black", markeredgewidth=0.5)
    figure.colorbar(dots, ax=axes, label="FLOPs", pad=0.02)
    log_x(axes)
    axes.set(xlabel="N", ylabel="loss")


def _growth_panel(axes: Axes, found: RunCompute) -> None:
    """Draw the best size against compute, with the line whose slope is the exponent."""
    held = _held(found)
    axes.plot(held["flops"], held["size"], "D", color="C0", markersize=4.5)
    at = found.best_size.estimate
    if np.isfinite(at.value):
        x = np.log(held["flops"].to_numpy(float))
        middle, level = x.mean(), np.log(held["size"].to_numpy(float)).mean()
        grid = np.linspace(x.min(), x.max(), 2)
        axes.plot(np.exp(grid), np.exp(level + at.value * (grid - middle)), color="C0", linewidth=1)
        if np.isfinite(at.low):
            wide = np.linspace(x.min(), x.max(), CURVE_POINTS) - middle
            ends = [np.exp(level + end * wide) for end in (at.low, at.high)]
            low, high = np.minimum(*ends), np.maximum(*ends)
            axes.fill_between(np.exp(wide + middle), low, high, color="C0", alpha=0.2, linewidth=0)
        axes.set_title(f"best size ~ C^{at.value:.3f}", fontsize="small")
    axes.set_yscale("log")
    log_x(axes)
    axes.set(xlabel="FLOPs", ylabel="best N")


def _frontier_panel(axes: Axes, found: RunCompute) -> None:
    """Draw loss against compute, with the frontier and its law."""
    points = found.points
    axes.plot(points["flops"], points["loss"], ".", color="0.75", markersize=3)
    front = _held(found) if found.given else points[points["frontier"]]
    axes.plot(front["flops"], front["loss"], "D" if found.given else ".", color="C1", markersize=4)
    law = found.frontier
    if law.status is FitStatus.OK:
        grid = np.geomspace(front["flops"].min(), front["flops"].max(), CURVE_POINTS)
        axes.plot(grid, [law.predict(law.variants[0], flops=float(flops)) for flops in grid], color="C1", linewidth=1)
        axes.set_title(f"lowest loss: {law.law.name}", fontsize="small")
    log_x(axes)
    axes.set(xlabel="FLOPs", ylabel="loss")
