"""Figures of what was found: quantities over depth, rows of attention and gates as maps."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from lina_lab.evaluation.inspect.quantities import QUANTITIES
from lina_lab.evaluation.inspect.table import Findings, Numbers, query_places
from lina_lab.util.files import atomic

mpl.use("Agg")
import matplotlib.pyplot as plt

MAPPED_BLOCKS = 4
"""Blocks whose maps are drawn, from the first to the last."""
MAPPED_HEADS = 6
"""Heads whose gates are drawn."""


def draw(findings: Findings, table: pd.DataFrame, folder: Path) -> dict[str, str]:
    """Draw all figures.

    Args:
        findings: of a model.
        table: `findings.table()`.
        folder: where they are written.

    Returns:
        File name -> caption.
    """
    with plt.style.context(str(files("lina_lab.analysis") / "report" / "figures.mplstyle")):
        drawn = {
            "depth.png": (
                _depth(table),
                "Each quantity over the blocks: a point is the mean of one head, the line joins the means over heads, "
                "dashes are what equal weights would have.",
            ),
            "rows.png": (
                _rows(findings),
                "Weights of three queries (crosses) on the image tokens of the first image, mean over heads. Red is "
                "positive, blue negative; the number is the largest weight times the number of image tokens.",
            ),
            "gates.png": (_gates(findings), "Weights of the gate on the image tokens, by head, mean over images."),
        }
        captions = {}
        for name, (figure, caption) in drawn.items():
            if figure is not None:
                with atomic(folder / name) as draft:
                    figure.savefig(draft, format="png", dpi=150)
                plt.close(figure)
                captions[name] = caption
    return captions


def _depth(table: pd.DataFrame) -> Any:
    """A panel for each quantity that was found."""
    blocks = {block: x for x, block in enumerate(dict.fromkeys(zip(table["part"], table["block"], strict=True)))}
    table = table.assign(x=[blocks[block] for block in zip(table["part"], table["block"], strict=True)])
    found = [quantity for quantity in QUANTITIES.values() if quantity.name in set(table["quantity"])]
    columns = 4
    lines = -(-len(found) // columns)
    figure, panels = plt.subplots(lines, columns, figsize=(8.4, 1.75 * lines), sharex=True, squeeze=False)
    for axes, quantity in zip(panels.flat, found, strict=False):
        own = table[table["quantity"] == quantity.name]
        mean, equal = own[own["statistic"] == "mean"], own[own["statistic"] == "uniform"]
        axes.plot(mean["x"], mean["value"], "o", markersize=2.5, alpha=0.5, color="C0")
        for _, part in mean.groupby("part", sort=False):
            line = part.groupby("x")["value"].mean()
            axes.plot(line.index, line, color="C0")
        for _, part in equal.groupby("part", sort=False):
            axes.plot(part["x"], part["value"], "--_", color="0.4", linewidth=0.9, markersize=5)
        axes.set_title(quantity.title)
        axes.set_ylabel(quantity.unit)
        lowest, highest = mean["value"].min(), mean["value"].max()
        if quantity.logarithmic and 0 < 10 * lowest < highest:  # a smaller range would have no ticks
            axes.set_yscale("log")
        elif not mean["value"].any():
            axes.set_ylim(0, 1)
    for axes in panels.flat[len(found) :]:
        axes.set_visible(False)
    names = [f"{part} {block}" for part, block in blocks]
    step = -(-len(names) // 12)
    for axes in panels.flat:
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_xticks(range(0, len(names), step), names[::step], rotation=90)
        axes.minorticks_off()
    return figure


def _rows(findings: Findings) -> Any | None:
    """A line for each block, a column for each query."""
    names = _some([name for name in findings.maps if name.split(".")[0] == _last_part(findings)])
    if not names:
        return None
    queries = len(findings.maps[names[0]])
    figure, panels = plt.subplots(
        len(names), queries, figsize=(1.45 * queries + 0.4, 1.5 * len(names)), squeeze=False, layout="constrained"
    )
    for line, name in zip(panels, names, strict=True):
        line[0].set_ylabel(_title(name))
        for axes, weights, place in zip(line, findings.maps[name], query_places(findings.grids[name]), strict=True):
            limit = float(np.abs(weights).max()) or 1.0
            axes.imshow(weights, cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes.plot(place[1], place[0], "kx", markersize=5)
            axes.set_title(f"{limit * weights.size:.1f} x", pad=2)
            axes.set(xticks=[], yticks=[])
    return figure


def _gates(findings: Findings) -> Any | None:
    """A line for each block and what the gate acts on, a column for each head; one color scale for all."""
    gates = {name: gate for name, gate in findings.mean_gates().items() if name.split(".")[0] == _last_part(findings)}
    names = _some(list(gates))
    if not names:
        return None
    heads = min(MAPPED_HEADS, max(len(gate) for gate in gates.values()))
    figure, panels = plt.subplots(
        len(names), heads, figsize=(1.2 * heads + 1.2, 1.3 * len(names)), squeeze=False, layout="constrained"
    )
    maps = {name: _image(gates[name], findings.grids[name.rpartition(".")[0]]) for name in names}
    limit = max(float(np.abs(gate - 1).max()) for gate in maps.values()) or 1.0
    for line, (name, gate) in zip(panels, maps.items(), strict=True):
        block, _, what = name.rpartition(".")
        line[0].set_ylabel(f"{_title(block)}\n{what}")
        for head, axes in enumerate(line):
            axes.set(xticks=[], yticks=[])
            axes.imshow(gate[head], cmap="PuOr", vmin=1 - limit, vmax=1 + limit)
    for head, axes in enumerate(panels[0]):
        axes.set_title(f"head {head}")
    figure.colorbar(panels[0, 0].images[0], ax=panels, shrink=0.8)
    return figure


def _image(gate_HT: Numbers, grid: tuple[int, int]) -> Numbers:
    return gate_HT[:, -grid[0] * grid[1] :].reshape(len(gate_HT), *grid)


def _last_part(findings: Findings) -> str:
    return list(findings.grids)[-1].split(".")[0]


def _some(names: list[str]) -> list[str]:
    """At most `MAPPED_BLOCKS` of the names, from the first to the last."""
    if len(names) <= MAPPED_BLOCKS:
        return names
    return [names[round(i * (len(names) - 1) / (MAPPED_BLOCKS - 1))] for i in range(MAPPED_BLOCKS)]


def _title(name: str) -> str:
    return name.replace(".", " ")
