"""The section on the length of the averaged weights: its figure, its tables and its sentences."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ..load.runs import StudyRuns
from ..stats.ema_lengths import GAINS, MEANS, POINT, best_lengths, length_curves, length_values
from .metric_names import metric_name
from .styles import LEGEND_ROOM, line_style, log_x, shifts, variant_legend
from .tables import records, size_text

CLOSE = 0.3
"""Share of the usual shift between the markers of variants."""
NAMES = {"val/loss": "validation loss"}
"""Metric at a length -> its name for readers."""
COLUMNS = {
    **{"length": "best length", "low": "interval low", "high": "interval high", "others": "on other seeds"},
    **{"gain": "difference", "gain low": "95% CI low", "gain high": "95% CI high"},
    "gain others": "difference on other seeds",
}
"""Column of the best lengths -> its name for readers."""
CHOSEN = (
    "The best of several looks better than it is on the seeds that chose it. So the 95% intervals, of the value and of "
    "its difference to the exponential average (ema.decay), are corrected for the number of looks (Bonferroni), and "
    "beside them stand the means in which each seed is judged at the length that is best for the other seeds."
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
    # Moved a little alone: markers far from each other would pass for different lengths.
    moved = [factor**CLOSE for factor in shifts(len(runs.variants), lengths)]
    places = dict(zip(runs.variants, moved, strict=True))
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


def lengths_table(runs: StudyRuns) -> pd.DataFrame:
    """Return a row for the best length of each variant, size and metric; empty where no length was measured."""
    best = best_lengths(length_values(runs))
    order = (list(dict.fromkeys(best["metric"])), runs.sizes, runs.variants)
    rank = {name: place for names in order for place, name in enumerate(names)}
    best = best.sort_values(["metric", "size", "variant"], key=lambda column: column.map(rank))
    best = best.assign(metric=best["metric"].map(_name), edge=best["edge"].where(best["edge"] != ""))
    shown = [*POINT, "length", "looks", "edge", *MEANS[:3], "others", *GAINS, "gain others", "seeds"]
    return best[shown].rename(columns=COLUMNS).reset_index(drop=True).dropna(axis="columns", how="all")


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
    for (metric, edge), mine in best[best["edge"] != ""].groupby(["metric", "edge"], sort=False):
        axis, name, other = runs.study.size_axis, _name(str(metric)), "shorter" if edge == "shortest" else "longer"
        found = ", ".join(f"{row['variant']} at {axis} {size_text(row['size'])}" for row in records(mine))
        lines.append(
            f"{name[0].upper()}{name[1:]}: the best length is the {edge} that was measured, and a {other} one may be "
            f"better, for {found}."
        )
    return lines


def _name(metric: str) -> str:
    return NAMES.get(metric, metric_name(metric))
