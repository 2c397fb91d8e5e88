"""How variants look in every figure, and axes that all figures have in common."""

import colorsys
import math
from collections.abc import Sequence
from textwrap import fill
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#78000F", "#003C78", "#0000FF", "#5A87FF", "#695A5A", "#C3000F", "#2D3CB4", "#4B3C4B", "#005A87", "#0F69F0"),
)
"""Okabe and Ito's colors without their yellow, which white paper swallows, and colors that were chosen one by one to be
as far as possible from all before them, in OKLab, for readers with normal sight, deuteranopia and protanopia."""
MARKERS = "osD^vP*X<>dphH8"
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
TICK_STEPS = (tuple(np.arange(1, 10, 0.5)), tuple(range(1, 10)), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
"""Multiples of powers of ten that may get a tick on a logarithmic axis, the finest choice first."""
MAX_TICKS, MAX_SIZES = 5, 8
NARROW = 4.0
"""An axis that spans a smaller factor than this has evenly spaced ticks."""
MAX_COLUMNS = 4
"""Most panels side by side in a figure with a panel for each variant."""
CLUSTER = 0.55
"""Share of the distance between neighboring sizes over which the variants of one size are spread."""
LEGEND_ROOM = 1.9
"""Inches beside the panels for a legend."""


def line_style(index: int) -> dict[str, Any]:
    """Return color, marker and dashes of the variant with this index; no two variants share a color or a marker."""
    # More variants than colors get hues that are far from their neighbors'; markers are still their own.
    hue = colorsys.hsv_to_rgb(0.618034 * index % 1, 0.5 + 0.3 * (index % 2), 0.8)
    return {
        "color": COLORS[index] if index < len(COLORS) else mpl.colors.to_hex(hue),
        "marker": MARKERS[index] if index < len(MARKERS) else f"${index + 1}$",
        "linestyle": DASHES[index % len(DASHES)],
    }


def dots_style(index: int) -> dict[str, Any]:
    """Return the style of a variant's single points: open markers without a line."""
    return line_style(index) | {"linestyle": "", "markerfacecolor": "none"}


def legend_handles(variants: Sequence[str]) -> list[Line2D]:
    """Return an entry for each variant, in order."""
    return [Line2D([], [], label=variant, **line_style(index)) for index, variant in enumerate(variants)]


def variant_legend(figure: Figure, variants: Sequence[str]) -> None:
    """Put one legend of all variants beside the panels."""
    figure.legend(handles=legend_handles(variants), loc="outside right center")


def variant_panels(
    variants: Sequence[str], heights: Sequence[float], *, width: float, same_x: bool
) -> tuple[Figure, list[list[Axes]]]:
    """Make a column of panels for each variant, at most `MAX_COLUMNS` side by side, with its name on top.

    Args:
        variants: their names.
        heights: inches of each panel of a variant, top to bottom.
        width: inches of a column.
        same_x: whether the panels of a variant have one x axis.

    Returns:
        The figure, and the panels of each variant, top to bottom. Panels of the same kind share their axes.
    """
    rows, columns = len(heights), min(len(variants), MAX_COLUMNS)
    bands = math.ceil(len(variants) / columns)
    shape: dict[str, Any] = {"figsize": (width * columns + 0.4, sum(heights) * bands), "squeeze": False}
    figure, panels = plt.subplots(rows * bands, columns, height_ratios=[*heights] * bands, **shape)
    found: list[list[Axes]] = []
    for index in range(bands * columns):
        band, column = divmod(index, columns)
        own = [panels[band * rows + row][column] for row in range(rows)]
        if index >= len(variants):
            for axes in own:
                axes.remove()
            continue
        for row, axes in enumerate(own):
            if found:
                axes.sharey(found[0][row])
                axes.sharex(found[0][0 if same_x else row])
            elif same_x and row:
                axes.sharex(own[0])
            axes.tick_params(labelleft=column == 0, labelbottom=row == rows - 1 or not same_x)
        own[0].set_title(fill(variants[index], 26), fontsize="small")
        found.append(own)
    return figure, found


def shifts(count: int, sizes: Sequence[float]) -> list[float]:
    """Return the factor by which each variant's points are moved along a logarithmic axis, so that none hides another.

    Args:
        count: number of variants.
        sizes: positions of the sizes on the axis.
    """
    distinct = sorted(set(sizes))
    steps = np.diff(np.log(distinct))
    reach = CLUSTER * (float(steps.min()) if len(steps) else 0.5) / 2
    return [math.exp(reach * place) for place in (np.linspace(-1, 1, count) if count > 1 else [0.0])]


def log_x(axes: Axes, values: Sequence[float] | None = None) -> None:
    """Make the x axis logarithmic with round tick labels that reach close to both its ends; call it after drawing.

    Args:
        axes: the axes.
        values: the only values to be marked, such as the sizes of a study; None: round numbers.
    """
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    marked = sorted(set(values if values is not None else ()))
    ticks = marked if 0 < len(marked) <= MAX_SIZES else _round_ticks(low, high)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(_scientific if high >= 1e12 else short)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(min(low, ticks[0]), max(high, ticks[-1]))


def _round_ticks(low: float, high: float) -> list[float]:
    """Return the finest choice of round numbers that is not too fine; the first and the last one enclose the axis."""
    if high < NARROW * low:
        return [float(tick) for tick in MaxNLocator(MAX_TICKS - 1).tick_values(low, high)]
    for every in (1, 2, 3, 4):
        decades = range(math.floor(math.log10(low)) - every, math.ceil(math.log10(high)) + every + 1)
        for steps in TICK_STEPS if every == 1 else TICK_STEPS[-1:]:
            known = np.array([step * 10.0**decade for decade in decades if decade % every == 0 for step in steps])
            first = int(np.searchsorted(known, low * (1 + 1e-9), side="right")) - 1
            ticks = known[max(first, 0) : int(np.searchsorted(known, high * (1 - 1e-9))) + 1]
            if len(ticks) <= MAX_TICKS:
                return [float(tick) for tick in ticks]
    return [low, high]


def short(value: float, _: object = None) -> str:
    """Write a count as 20k, 500M, 1B, with three digits at most."""
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


def _scientific(value: float, _: object) -> str:
    exponent = math.floor(math.log10(value))
    factor = value / 10.0**exponent
    return rf"${factor:.2g}\times10^{{{exponent}}}$" if factor > 1.05 else rf"$10^{{{exponent}}}$"
