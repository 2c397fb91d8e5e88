"""Draw every figure and table of a study, and write its report.

  lina plots study=NAME [runs=FOLDER] [out=FOLDER]
  lina plots source=published

source=published draws the authors' own training runs in place of a study. The command reads the run store only, and
writes the numbers of each figure next to it.
"""

if __name__ == "__main__":
    import sys

    from lina_lab.cli import main

    raise SystemExit(main(["plots", *sys.argv[1:]]))

from collections.abc import Mapping
from dataclasses import dataclass as plain
from pathlib import Path
from typing import Literal

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from pydantic.dataclasses import dataclass
from yaml import YAMLError

from lina_lab.config import CHECKS
from lina_lab.config.grammar import Command

from .load.errors import StoreError
from .load.published import read_published
from .load.runs import StudyRuns, read_study
from .report import page
from .report.figures import STYLE, curves_figure, differences_figure, scaling_figure, views_figure
from .report.fit_figures import compute_figure, fits_figure, profile_figure, surface_figure
from .report.fit_narrative import fit_sentences, fit_table
from .report.narrative import PAIRING, audit_sentences, growth_sentences, overall_sentences, sentences
from .report.page import Section
from .report.tables import difference_table, records, summary_table, write_table
from .stats.budgets import TAIL, View, iso_flop, iso_image, iso_step
from .stats.paired import comparisons, over_seeds, paired_differences, with_size
from .stats.study_fits import StudyFits, fit_study

NO_FIT = "More than size differs between the sizes: no law of size is fitted to them."
NOTHING = "Nothing to compare: no two variants that are done differ by one axis."


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class PlotsConfig:
    """Fields of `lina plots`."""

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


@plain(frozen=True, kw_only=True)
class StudyReport:
    """All that a study's report says."""

    runs: StudyRuns
    views: tuple[View, ...]
    summary: pd.DataFrame
    differences: pd.DataFrame
    """Seed by seed."""
    means: pd.DataFrame
    growth: pd.DataFrame
    fits: StudyFits | None
    """None where more than size differs between the sizes."""

    @property
    def said_of_fits(self) -> list[str]:
        """Sentences."""
        return [NO_FIT] if self.fits is None else fit_sentences(self.fits)


def answer(runs: StudyRuns, tail: float) -> StudyReport:
    """Compare and fit.

    Args:
        runs: the study.
        tail: share of a run that its training loss is averaged over, for paired differences.
    """
    differences, views = paired_differences(runs, tail), (iso_step(runs), iso_image(runs), iso_flop(runs))
    return StudyReport(
        runs=runs,
        views=views,
        summary=summary_table(runs),
        differences=differences,
        means=over_seeds(differences),
        growth=with_size(differences, runs.sizes),
        fits=fit_study(runs) if views[0].about_scaling else None,
    )


def figures(found: StudyReport) -> dict[str, tuple[Figure, pd.DataFrame]]:
    """Every figure that the study allows, with the numbers behind it."""
    runs, fits = found.runs, found.fits
    # Where more than size differs, sizes are shown in each view, and not as scaling.
    scaling = found.views[0].about_scaling
    drawn = {"scaling": scaling_figure(runs)} if scaling else {"views": views_figure(runs, found.views)}
    drawn["curves"] = curves_figure(runs)
    if comparisons(runs):
        drawn["differences"] = differences_figure(runs, found.differences)
    if fits is None:
        return drawn
    if fits.pooled.found:
        drawn["fits"] = fits_figure(runs, fits.pooled)
    if fits.surface.found:
        drawn["surface"] = surface_figure(runs, fits.surface)
    offsets = [law for law in (fits.pooled, fits.surface) if law.found and law.found.law.offset]
    if offsets:
        drawn["profile"] = profile_figure(offsets)
    if fits.compute:
        drawn["compute"] = compute_figure(runs, fits.compute)
    return drawn


def write_report(config: PlotsConfig) -> list[Path]:
    """Write all figures and tables of a study; returns the files.

    Raises:
        StoreError: see `analysis.load.runs.read_study`.
        OSError: the folder cannot be written.
    """
    if config.study is None:
        found = answer(read_published(), TAIL)
    else:
        found = answer(read_study(config.study, Path(config.runs), config.tracking_uri), 0.5)
    folder = Path(config.out) / found.runs.study.name
    folder.mkdir(parents=True, exist_ok=True)
    files, pictures = [], {}
    with plt.style.context(STYLE):
        for name, (figure, numbers) in figures(found).items():
            pictures[name] = folder / f"{name}.png"
            for ending in (".png", ".pdf"):
                figure.savefig(folder / f"{name}{ending}")
                files.append(folder / f"{name}{ending}")
            plt.close(figure)
            numbers.to_csv(folder / f"{name}.csv", index=False)
            files.append(folder / f"{name}.csv")
    tables = {"table": found.summary, "difference_table": difference_table(found.means)}
    if found.fits is not None:
        tables["fit_table"] = fit_table(found.fits)
    for name, table in tables.items():
        files += write_table(table, folder / name)
    found.runs.checkpoints.to_parquet(folder / "checkpoints.parquet", index=False)
    study = found.runs.study
    lead = (study.question.strip(), f"Held equal: {'; '.join(study.controlled)}.")
    parts = [*_sections(found, tables, pictures), page.provenance(found.runs, list(pictures.values()))]
    return [*files, folder / "checkpoints.parquet", *page.write_report(folder, study.name, lead, parts)]


def _sections(found: StudyReport, tables: Mapping[str, pd.DataFrame], pictures: Mapping[str, Path]) -> list[Section]:
    """The parts of the page, in a reader's order."""
    runs, means, fits = found.runs, found.means, found.fits

    def shown(*names: str) -> list[Path]:
        return [pictures[name] for name in names if name in pictures]

    verdicts = [NOTHING]
    if len(means):
        verdicts = [PAIRING]
        for say, table in ((overall_sentences, means), (sentences, means), (growth_sentences, found.growth)):
            verdicts += [line for metric in runs.objectives for line in say(table, metric)]
    left_out = [f"{r['label']} ({r['cell']}): {r['status']}, {r['reason']}" for r in records(runs.excluded)]
    return [
        Section(title="Design audit", lines=audit_sentences(runs, found.views)),
        Section(title="Verdicts", lines=verdicts, pictures=shown("differences")),
        Section(title="Losses", tables=[found.summary], pictures=shown("scaling", "views", "curves")),
        Section(
            title="Fits",
            lines=found.said_of_fits,
            tables=[] if fits is None else [tables["fit_table"], fits.slopes],
            pictures=shown("fits", "surface", "profile", "compute"),
        ),
        Section(title="Differences", tables=[tables["difference_table"]] if len(means) else []),
        Section(title="Left out", lines=left_out or ["Nothing."]),
    ]


def run(config: PlotsConfig) -> int:
    """Write the report and say where; 0.

    Raises:
        ValueError: there is nothing to draw.
    """
    try:
        files = write_report(config)
    except OSError as error:
        raise ValueError(f"cannot write {error.filename} ({error.strerror}): choose another out=FOLDER") from error
    for file in files:
        print(file)
    return 0


COMMAND = Command(config=PlotsConfig, run=run, doc=__doc__, errors=(StoreError, ValueError, YAMLError))
