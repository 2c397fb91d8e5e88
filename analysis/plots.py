"""Every figure and table of a study: `python analysis/plots.py study=NAME [runs=FOLDER] [out=FOLDER]`.

`source=published` in place of a study draws those of the authors' own training runs.

Reads the run store only. The numbers behind each picture are written beside it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pydantic.dataclasses import dataclass
from yaml import YAMLError

from analysis.compare import comparisons, over_seeds, paired_differences, with_size
from analysis.errors import StoreError
from analysis.fits import StudyFits, fit_sentences, fit_study, fit_table
from analysis.page import Section, write_page
from analysis.published_runs import read_published
from analysis.runs import StudyRuns, read_study
from analysis.tables import (
    audit_sentences,
    difference_table,
    growth_sentences,
    records,
    report,
    sentences,
    summary_table,
    write_table,
)
from analysis.views import TAIL, View, iso_image, iso_step
from lina_lab.config import CHECKS
from lina_lab.dotlist import one_line, parse
from lina_lab.runstore import TRAIN_LOSS

STYLE = Path(__file__).with_name("figures.mplstyle")
MARKERS = "osD^vP*X"
DASHES = ("-", "--", "-.", ":")
NO_FIT = "More than size differs between the sizes: no law of size is fitted to them."
NOTHING = "Nothing to compare: no two variants that are done differ by one axis."
SMOOTHING = 40
"""Windows that a training curve is averaged in."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class PlotsConfig:
    """What the command takes."""

    study: str | None = None
    """The study; for source=runs."""
    source: Literal["runs", "published"] = "runs"
    """runs: a study in the run store; published: the authors' own training runs (`analysis/published`)."""
    runs: str = "runs"
    """Folder of the runs."""
    tracking_uri: str | None = None
    """MLflow's store; null: `mlflow.db` in the folder of runs."""
    out: str = "reports"
    """Folder of the reports; each study has one of its own in it."""

    def __post_init__(self) -> None:
        if (self.study is None) == (self.source == "runs"):
            raise ValueError("name a study with study=NAME, or give source=published, which is one")


def scaling_figure(runs: StudyRuns) -> tuple[Figure, pd.DataFrame]:
    """The objective against parameters: a point for each seed, a line through their means."""
    objective = runs.study.objective
    figure, axes = plt.subplots(figsize=(4.4, 3.2))
    for place, variant in enumerate(runs.variants):
        cells = runs.cells[runs.cells["variant"] == variant]
        means = cells.groupby("size")[["parameters", objective]].mean()
        style = line_style(place)
        axes.plot(means["parameters"], means[objective], color=style["color"], linestyle=style["linestyle"])
        axes.plot([], [], label=variant, **style)
        axes.plot(cells["parameters"], cells[objective], style["marker"], color=style["color"], markerfacecolor="none")
    axes.set(xscale="log", xlabel="trainable parameters", ylabel=_name(objective))
    axes.legend()
    return figure, runs.cells[["variant", "size", "seed", "parameters", objective]]


def curves_figure(runs: StudyRuns) -> tuple[Figure, pd.DataFrame]:
    """Training loss in windows (thin, each seed) and the objective (mean of the seeds).

    Where there is no validation the training loss, mean of the seeds, is the one that is marked.
    """
    sizes = runs.sizes
    figure, panels = plt.subplots(1, len(sizes), figsize=(2.9 * len(sizes), 3.2), sharey=True, squeeze=False)
    smooth = _windows(runs.history[runs.history["metric"] == TRAIN_LOSS])
    validated = runs.study.objective != TRAIN_LOSS
    validation = runs.history[runs.history["metric"] == runs.study.objective]
    if not validated:
        validation = validation.iloc[:0]
    for axes, size in zip(panels[0], sizes, strict=True):
        for place, variant in enumerate(runs.variants):
            style = line_style(place)
            mine = smooth[(smooth["variant"] == variant) & (smooth["size"] == size)]
            for _, seed in mine.groupby("seed") if validated else ():
                axes.plot(seed["images"], seed["value"], color=style["color"], linewidth=0.5, alpha=0.6)
            checks = validation[(validation["variant"] == variant) & (validation["size"] == size)]
            means = (checks if validated else mine).groupby("images")["value"].mean()
            axes.plot(means.index, means, label=variant, markevery=1 if validated else 8, **style)
        axes.set(title=f"{runs.study.size_axis} {size}", xlabel="images seen")
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    both = f"thin: {_name(TRAIN_LOSS)}\nmarked: {_name(runs.study.objective)}"
    panels[0][0].set_ylabel(both if validated else _name(TRAIN_LOSS))
    panels[0][-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure, pd.concat([smooth, validation[smooth.columns]], ignore_index=True)


def differences_figure(runs: StudyRuns, differences: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Paired differences against size; a column of panels for each axis.

    Open: each seed, with its block standard error where there is one. Full: their mean, with its 95% interval.
    """
    metrics = list(dict.fromkeys([TRAIN_LOSS, runs.study.objective]))
    shown = differences[differences["metric"].isin(metrics)]
    means = over_seeds(shown)
    axes_names = list(dict.fromkeys(c.axis for c in comparisons(runs)))
    shape = (len(metrics), len(axes_names))
    figure, panels = plt.subplots(*shape, figsize=(3.6 * shape[1], 2.6 * shape[0]), squeeze=False, sharex=True)
    for row, metric in zip(panels, metrics, strict=True):
        for panel, axis in zip(row, axes_names, strict=True):
            _difference_panel(panel, runs, shown, means, metric, axis)
    for panel in panels[-1]:
        panel.set_xlabel(runs.study.size_axis)
        # Of the whole column, below it: names are long.
        names = panel.get_legend_handles_labels()
        panel.legend(*names, loc="upper center", bbox_to_anchor=(0.5, -0.25), fontsize="x-small")
    return figure, shown


def _difference_panel(
    axes: Axes, runs: StudyRuns, seeds: pd.DataFrame, means: pd.DataFrame, metric: str, axis: str
) -> None:
    sizes = {size: place for place, size in enumerate(runs.sizes)}
    mine = [c for c in comparisons(runs) if c.axis == axis]
    for place, comparison in enumerate(mine):
        style, shift = line_style(place), min(0.16, 0.8 / len(mine)) * (place - (len(mine) - 1) / 2)
        points, mean = (
            table[
                (table["metric"] == metric)
                & (table["treatment"] == comparison.treatment)
                & (table["control"] == comparison.control)
            ]
            for table in (seeds, means)
        )
        axes.errorbar(
            points["size"].map(sizes) + shift - 0.05,
            points["difference"],
            yerr=points["block_se"],
            fmt=style["marker"],
            color=style["color"],
            markerfacecolor="none",
            elinewidth=2,
        )
        axes.errorbar(
            mean["size"].map(sizes) + shift + 0.05,
            mean["difference"],
            yerr=mean["high"] - mean["difference"],
            fmt=style["marker"],
            color=style["color"],
            capsize=2,
            label=comparison.label,
        )
    axes.axhline(0, color="0.5", linewidth=0.6)
    axes.set_xticks(list(sizes.values()), [str(size) for size in sizes])
    axes.set(ylabel=f"Δ {_name(metric)}", title=axis)


def views_figure(runs: StudyRuns, views: Sequence[View]) -> tuple[Figure, pd.DataFrame]:
    """Training loss against parameters in each view, which says what else moved with size."""
    figure, panels = plt.subplots(1, len(views), figsize=(3.6 * len(views), 3.4), sharey=True, squeeze=False)
    for axes, view in zip(panels[0], views, strict=True):
        for place, variant in enumerate(runs.variants):
            mine = view.points[view.points["variant"] == variant].groupby("size", as_index=False)
            means = mine[["parameters", "loss"]].mean()
            axes.plot(means["parameters"], means["loss"], label=variant, **line_style(place))
        axes.set(xscale="log", xlabel="trainable parameters")
        axes.set_title(fill(view.title, 44), fontsize="small")
    panels[0][0].set_ylabel(_name(TRAIN_LOSS))
    panels[0][-1].legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.02, 0.5))
    numbers = pd.concat([view.points.drop(columns="blocks").assign(view=view.name) for view in views])
    return figure, numbers


def _windows(history: pd.DataFrame) -> pd.DataFrame:
    """Means over windows of equally many images."""
    width = history["images"].max() / SMOOTHING
    window = np.minimum(history["images"] // width, SMOOTHING - 1)
    grouped = history.assign(window=window).groupby(["variant", "size", "seed", "metric", "window"], sort=False)
    return grouped.agg(images=("images", "mean"), value=("value", "mean")).reset_index().drop(columns="window")


def line_style(place: int) -> dict[str, Any]:
    """Colour, marker and dashes of the line at a place: told apart in print and by the colour-blind."""
    colors = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    # The second time through the colours, markers and dashes are others.
    turn = place + place // len(colors)
    return {
        "color": colors[place % len(colors)],
        "marker": MARKERS[turn % len(MARKERS)],
        "linestyle": DASHES[turn % len(DASHES)],
    }


def _name(metric: str) -> str:
    names = {
        TRAIN_LOSS: "training loss",
        "val/loss_ema": "validation loss, EMA weights",
        "val/loss_raw": "validation loss, raw weights",
    }
    return names.get(metric, metric)


def write_report(config: PlotsConfig) -> list[Path]:
    """Write all figures and tables of a study; returns the files.

    Raises:
        StoreError: see `analysis.runs.read_study`.
        OSError: the folder cannot be written.
    """
    if config.study is None:
        runs, tail = read_published(), TAIL
    else:
        runs, tail = read_study(config.study, Path(config.runs), config.tracking_uri), 0.5
    folder = Path(config.out) / runs.study.name
    folder.mkdir(parents=True, exist_ok=True)
    differences = paired_differences(runs, tail)
    means = over_seeds(differences)
    files = []
    with plt.style.context(STYLE):
        views = [iso_step(runs), iso_image(runs)]
        # Where more than size differs, sizes are shown in each view, and not as scaling.
        by_size = scaling_figure(runs) if views[0].about_scaling else views_figure(runs, views)
        figures = {"scaling" if views[0].about_scaling else "views": by_size, "curves": curves_figure(runs)}
        if comparisons(runs):
            figures["differences"] = differences_figure(runs, differences)
        for name, (figure, numbers) in figures.items():
            for ending in (".png", ".pdf"):
                figure.savefig(folder / f"{name}{ending}")
                files.append(folder / f"{name}{ending}")
            plt.close(figure)
            numbers.to_csv(folder / f"{name}.csv", index=False)
            files.append(folder / f"{name}.csv")
    summary, growth = summary_table(runs), with_size(differences, runs.sizes)
    tables = {"table": summary, "difference_table": difference_table(means)}
    fits = fit_study(runs) if views[0].about_scaling else None
    if fits is not None:
        tables["fits"] = fit_table(fits)
    for name, table in tables.items():
        files += write_table(table, folder / name)
    said = [NO_FIT] if fits is None else fit_sentences(fits)
    (folder / "report.md").write_text(report(runs, summary, means, growth, views, said, tables.get("fits")))
    page = write_page(folder / "index.html", runs, _sections(runs, summary, means, growth, views, said, fits, folder))
    return [*files, folder / "report.md", page]


def _sections(
    runs: StudyRuns,
    summary: pd.DataFrame,
    means: pd.DataFrame,
    growth: pd.DataFrame,
    views: Sequence[View],
    said: Sequence[str],
    fits: StudyFits | None,
    folder: Path,
) -> list[Section]:
    """The parts of the page, in a reader's order."""
    objective = runs.study.objective
    verdicts = [*sentences(means, objective), *growth_sentences(growth, objective)] if len(means) else [NOTHING]
    by_size = folder / ("scaling.png" if views[0].about_scaling else "views.png")
    left_out = [f"{r['label']} ({r['cell']}): {r['status']}, {r['reason']}" for r in records(runs.excluded)]
    compared = [folder / "differences.png"] if len(means) else []
    return [
        Section(title="Design audit", lines=audit_sentences(runs, views)),
        Section(title="Verdicts", lines=verdicts, pictures=compared),
        Section(title="Losses", tables=[summary], pictures=[by_size, folder / "curves.png"]),
        Section(title="Fits", lines=said, tables=[] if fits is None else [fit_table(fits), fits.slopes]),
        Section(title="Differences", tables=[difference_table(means)] if len(means) else []),
        Section(title="Left out", lines=left_out or ["Nothing."]),
    ]


def main(arguments: Sequence[str]) -> int:
    """Run the command; 0, or 2 with one sentence where there is nothing to draw."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        config = parse(PlotsConfig, arguments)
        files = write_report(config)
    except OSError as error:
        print(f"error: cannot write {error.filename} ({error.strerror}): choose another out=FOLDER", file=sys.stderr)
        return 2
    except (StoreError, ValueError, YAMLError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    for file in files:
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
