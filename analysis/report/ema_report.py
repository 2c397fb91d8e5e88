"""The section on the length of the averaged weights: its figure, its tables and its sentences."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ..load.runs import StudyRuns
from ..stats.ema_lengths import best_lengths, differences_at_best, length_curves, length_values
from .metric_names import metric_name
from .styles import LEGEND_ROOM, line_style, log_x, shifts, variant_legend
from .tables import READABLE, records, size_text

NAMES = {"val/loss": "validation loss"}
"""Metric at a length -> its name for readers."""
COLUMNS = {
    **{"length": "best length", "value": "on other seeds", "low": "interval low", "high": "interval high"},
    **{"gain": "difference", "gain low": "95% CI low", "gain high": "95% CI high"},
}
"""Column of the best lengths -> its name for readers."""
CHOSEN = (
    "A length that is chosen by the numbers that it is judged by looks better than it is. So each seed is judged at "
    "the length that is best for the other seeds: the values, their 95% intervals (Student's t over seeds) and the "
    "differences to the exponential average (ema.decay) are of that choice. The length in the table is the best one "
    "for all seeds together."
)

VARIANTS = (
    "Differences between variants, each at its own length, are exploratory. They are paired by seed, and p is "
    "corrected over the comparisons and sizes of a metric."
)


def lengths_figure(runs: StudyRuns) -> tuple[Figure, pd.DataFrame] | None:
    """Draw loss and image quality against the length of the averaged weights; None: no length was measured.

    For each metric a row of panels with means over seeds and their 95% intervals, and one with the differences to the
    exponential average, paired by seed. The best length of a variant is filled.
    """
    values = length_values(runs)
    if values.empty:
        return None
    curves, best = length_curves(values), best_lengths(values)
    metrics, sizes = list(dict.fromkeys(curves["metric"])), runs.sizes
    shape: dict[str, Any] = {"figsize": (3.0 * len(sizes) + LEGEND_ROOM, 2.0 * 2 * len(metrics)), "squeeze": False}
    figure, panels = plt.subplots(2 * len(metrics), len(sizes), sharex="col", sharey="row", **shape)
    lengths = sorted(set(curves["length"]))
    places = dict(zip(runs.variants, shifts(len(runs.variants), lengths), strict=True))
    for row, metric in enumerate(metrics):
        for column, size in enumerate(sizes):
            upper, lower = panels[2 * row][column], panels[2 * row + 1][column]
            for index, variant in enumerate(runs.variants):
                keys = (curves["variant"] == variant) & (curves["size"] == size) & (curves["metric"] == metric)
                mine = curves[keys].sort_values("length")
                if mine.empty:
                    continue
                own = best[(best["variant"] == variant) & (best["size"] == size) & (best["metric"] == metric)]
                filled = mine["length"] == own["length"].item()
                for axes, value in ((upper, "value"), (lower, "gain")):
                    _curve(axes, mine, value, filled, places[variant], index)
            lower.axhline(0, color="0.5", linewidth=0.6, zorder=0)
        panels[2 * row][0].set_ylabel(_name(metric))
        panels[2 * row + 1][0].set_ylabel("minus that of the\nexponential average")
    for column, size in enumerate(sizes):
        panels[0][column].set_title(f"{runs.study.size_axis} {size_text(size)}")
        log_x(panels[-1][column], lengths)
        panels[-1][column].set_xlabel("EMA length (relative width)")
    variant_legend(figure, runs.variants)
    return figure, curves


def _curve(axes: Any, curve: pd.DataFrame, value: str, filled: "pd.Series[bool]", shift: float, index: int) -> None:
    low, high = ("low", "high") if value == "value" else ("gain low", "gain high")
    x, style = curve["length"] * shift, line_style(index)
    reach = [(curve[value] - curve[low]).fillna(0), (curve[high] - curve[value]).fillna(0)]
    axes.errorbar(x, curve[value], yerr=reach, **style | {"markerfacecolor": "white"}, capsize=2, linewidth=0.8)
    axes.plot(x[filled], curve[value][filled], **style | {"linestyle": "", "markersize": 7}, zorder=3)


def lengths_tables(runs: StudyRuns) -> dict[str, pd.DataFrame]:
    """Return the best lengths, and the differences between variants at them: name -> table; empty ones are left out."""
    values = length_values(runs)
    best, differences = best_lengths(values), differences_at_best(runs, values)
    tables = {}
    if len(best):
        order = (list(dict.fromkeys(best["metric"])), runs.sizes, runs.variants)
        rank = {name: place for names in order for place, name in enumerate(names)}
        best = best.sort_values(["metric", "size", "variant"], key=lambda column: column.map(rank))
        best = best.assign(metric=best["metric"].map(_name), edge=best["edge"].where(best["edge"] != ""))
        tables["ema_table"] = best.rename(columns=COLUMNS).reset_index(drop=True)
    if len(differences):
        columns = ["comparison", "size", "metric", "difference", "low", "high", "holm", "seeds"]
        shown = differences[columns].assign(metric=differences["metric"].map(_name))
        tables["ema_difference_table"] = shown.rename(columns=READABLE)
    return {name: table.dropna(axis="columns", how="all") for name, table in tables.items()}


def lengths_sentences(runs: StudyRuns) -> list[str]:
    """Return how the best lengths were chosen, and which of them lie at an end of those that were measured."""
    best = best_lengths(length_values(runs))
    if best.empty:
        return []
    looks = sorted(set(best["looks"]))
    tried = f"{looks[0]}" if len(looks) == 1 else f"{looks[0]} to {looks[-1]}"
    lines = [f"Each best length is the best of {tried} that were measured. {CHOSEN}"]
    if (best["seeds"] < 2).all():
        lines = [
            f"Each best length is the best of {tried} that were measured on one seed: nothing says how far it holds."
        ]
    if (best["seeds"] > 1).any() and len(runs.variants) > 1:
        lines.append(VARIANTS)
    for row in records(best[best["edge"] != ""]):
        other = "shorter" if row["edge"] == "shortest" else "longer"
        name, size = _name(row["metric"]), f"{runs.study.size_axis} {size_text(row['size'])}"
        lines.append(
            f"{name[0].upper()}{name[1:]}, {row['variant']}, {size}: the best length {row['length']:g} is the "
            f"{row['edge']} that was measured, and a {other} one may be better."
        )
    return lines


def _name(metric: str) -> str:
    return NAMES.get(metric, metric_name(metric))
