"""Figures of the attention and ranks benchmarks: `python benchmarks/attention_figures.py [folder=...]`."""

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from lina_lab.analysis.report.figures import STYLE, line_style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from pydantic.dataclasses import dataclass

from lina_lab.config import CHECKS
from lina_lab.config.grammar import Command

NAMES = {
    "softmax": "softmax",
    "linear": "linear, convolution, KV gate",
    "plain": "linear alone",
}


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class BenchPlotsConfig:
    """Fields of the command."""

    folder: str = "reports/bench"
    """Folder of the tables, and of the figures."""


def crossing(tokens: ArrayLike, a: ArrayLike, b: ArrayLike) -> tuple[float, float] | None:
    """Tokens and value from which on `a` exceeds `b`, interpolated between logarithms; None: there is no such point."""
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
        for index, (variant, name) in enumerate(NAMES.items()):
            axes.plot(wide.index, wide[variant], label=name, **line_style(index))
        axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel=label)
        axes.set_xscale("log", base=2)
        axes.set_xticks(wide.index, [f"{tokens:,}" for tokens in wide.index], rotation=45)
        axes.minorticks_off()
        _mark(axes, crossing(wide.index, wide["softmax"], wide["linear"]))
    panels[0].legend()
    return figure


def ranks_figure(table: pd.DataFrame) -> Figure:
    """Images a second over ranks, with a point for each run, and the parts of a step's time."""
    runs = table[table["how"] == "seam"]
    medians = runs.groupby("ranks")[["images_per_second", "step_ms", "data_ms", "communication_ms"]].median()
    figure, (speed, split) = plt.subplots(1, 2, figsize=(6.4, 2.9))
    first = medians.index[0]
    speed.plot(runs["ranks"], runs["images_per_second"], "o", color="0.6", markersize=4, label="runs")
    speed.plot(medians.index, medians["images_per_second"], label="median", **line_style(0))
    speed.plot(medians.index, medians["images_per_second"][first] * medians.index / first, "k:", label="ideal")
    for ranks, row in medians.iterrows():
        share = row["images_per_second"] * first / (medians["images_per_second"][first] * float(str(ranks)))
        where = (float(str(ranks)), row["images_per_second"])
        speed.annotate(f"{share:.0%}", where, xytext=(4, -12), textcoords="offset points")
    speed.set(xlabel="ranks", ylabel="images a second", xticks=list(medians.index), ylim=(0, None))
    speed.legend()
    parts = {
        "compute": medians["step_ms"] - medians["data_ms"] - medians["communication_ms"],
        "communication": medians["communication_ms"],
        "data": medians["data_ms"],
    }
    bottom, names = np.zeros(len(medians)), [str(ranks) for ranks in medians.index]
    for (name, values), shade, hatch in zip(parts.items(), ("0.75", "0.45", "0.1"), ("", "//", ""), strict=True):
        split.bar(names, values, bottom=bottom, color=shade, hatch=hatch, label=name, width=0.6)
        bottom += values.to_numpy()
    split.set(xlabel="ranks", ylabel="time of a step, ms")
    split.legend()
    return figure


def _mark(axes: Axes, point: tuple[float, float] | None) -> None:
    if point is None:
        return
    axes.plot(*point, "o", markersize=9, markerfacecolor="none", markeredgecolor="0.3")
    axes.annotate(f"{point[0]:,.0f} tokens", point, xytext=(8, -12), textcoords="offset points")


def run(config: BenchPlotsConfig) -> int:
    """Draw a figure for each table; returns 0.

    Raises:
        ValueError: there is no table.
    """
    folder = Path(config.folder)
    figures = {path: tokens_figure for path in sorted(folder.glob("tokens-*.csv"))}
    figures |= {path: ranks_figure for path in folder.glob("ranks.csv")}
    if not figures:
        raise ValueError(
            f"{folder} has no tokens-*.csv and no ranks.csv: run `python benchmarks/attention.py` or "
            "`python benchmarks/ranks.py` first"
        )
    with plt.style.context(STYLE):
        for path, draw in figures.items():
            figure = draw(pd.read_csv(path))
            for ending in (".png", ".pdf"):
                figure.savefig(path.with_suffix(ending))
                print(path.with_suffix(ending))
            plt.close(figure)
    return 0


COMMAND = Command(config=BenchPlotsConfig, run=run, doc=__doc__)

if __name__ == "__main__":
    sys.exit(COMMAND.main(sys.argv[1:]))
