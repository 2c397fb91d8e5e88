"""Pictures of `python -m lina_lab.bench`: `python -m analysis.bench [folder=reports/bench]`."""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from pydantic.dataclasses import dataclass

from analysis.plots import STYLE, line_style
from lina_lab.config import CHECKS
from lina_lab.dotlist import one_line, parse

NAMES = {
    "softmax": "softmax",
    "linear": "linear, convolution, KV gate",
    "plain": "linear alone",
}


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class BenchPlotsConfig:
    """What the command takes."""

    folder: str = "reports/bench"
    """Folder of the tables; the pictures go there too."""


def crossing(tokens: ArrayLike, a: ArrayLike, b: ArrayLike) -> tuple[float, float] | None:
    """Where `a` rises above `b` for good: tokens and value, by interpolation between logarithms; None: nowhere."""
    x, log_a, log_b = (np.log(np.asarray(values, dtype=float)) for values in (tokens, a, b))
    gap = log_a - log_b
    below = np.flatnonzero(gap <= 0)
    if not len(below) or below[-1] == len(x) - 1:
        return None
    i = below[-1]
    share = -gap[i] / (gap[i + 1] - gap[i])
    return float(np.exp(x[i] + share * (x[i + 1] - x[i]))), float(np.exp(log_b[i] + share * (log_b[i + 1] - log_b[i])))


def tokens_figure(table: pd.DataFrame) -> Figure:
    """Time and memory of one attention, forward and backward, against tokens."""
    figure, panels = plt.subplots(1, 2, figsize=(6.4, 2.9))
    columns = (("median_ms", "time, ms"), ("peak_mib", "peak memory, MiB"))
    for axes, (column, label) in zip(panels, columns, strict=True):
        wide = table.pivot(index="tokens", columns="variant", values=column)
        for place, (variant, name) in enumerate(NAMES.items()):
            axes.plot(wide.index, wide[variant], label=name, **line_style(place))
        axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel=label)
        axes.set_xscale("log", base=2)
        axes.set_xticks(wide.index, [f"{tokens:,}" for tokens in wide.index], rotation=45)
        axes.minorticks_off()
        _mark(axes, crossing(wide.index, wide["softmax"], wide["linear"]))
    panels[0].legend()
    return figure


def _mark(axes: Axes, point: tuple[float, float] | None) -> None:
    if point is None:
        return
    axes.plot(*point, "o", markersize=9, markerfacecolor="none", markeredgecolor="0.3")
    axes.annotate(f"{point[0]:,.0f} tokens", point, xytext=(8, -12), textcoords="offset points")


def main(arguments: Sequence[str]) -> int:
    """Run the command; 0, or 2 with one sentence where there is nothing to draw."""
    try:
        folder = Path(parse(BenchPlotsConfig, arguments).folder)
        tables = sorted(folder.glob("tokens-*.csv"))
        if not tables:
            raise ValueError(f"{folder} has no tokens-*.csv: run `python -m lina_lab.bench` first")
        with plt.style.context(STYLE):
            for path in tables:
                figure = tokens_figure(pd.read_csv(path))
                for ending in (".png", ".pdf"):
                    figure.savefig(path.with_suffix(ending))
                    print(path.with_suffix(ending))
                plt.close(figure)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
