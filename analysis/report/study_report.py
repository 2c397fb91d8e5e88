"""A study's report: what is compared and fitted, its figures and tables, and the page that shows them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lina_lab.config.factors import LAWS, LawKind

from ..load.runs import StudyRuns
from ..stats.budgets import BudgetView, confounded, iso_flop, iso_image, iso_step
from ..stats.paired import comparisons, mean_differences, paired_differences, size_trends
from ..stats.study_fits import StudyFits, fit_study
from . import page
from .figures import STYLE, curves_figure, scaling_figure, views_figure
from .fit_figures import compute_figure, fits_figure, profile_figure, surface_figure
from .fit_narrative import estimate_table, fit_sentences, fit_table
from .forest import differences_figure
from .narrative import comparison_sentences, design_sentences, method_sentences
from .page import Section
from .tables import difference_table, records, summary_table, trend_table, write_table

T = TypeVar("T")

NO_PAIRS = "There is nothing to compare: no two variants that finished differ in one axis only."
OTHER_METRICS = "difference_table.csv also has the losses that are not objectives."


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """The results that a report shows."""

    runs: StudyRuns
    views: tuple[BudgetView, ...]
    """Sizes at equal steps, images and FLOPs."""
    summary: pd.DataFrame
    """See `tables.summary_table`."""
    differences: pd.DataFrame
    """Paired differences of each seed: see `stats.paired.paired_differences`."""
    means: pd.DataFrame
    """Their means over seeds: see `stats.paired.mean_differences`."""
    trends: pd.DataFrame
    """Their changes with size: see `stats.paired.size_trends`."""
    fits: StudyFits | None
    """None where every law is confounded."""
    confounded: Mapping[LawKind, str]
    """Kind of law -> the factors that are confounded with size in it; the other kinds are fitted."""


def analyze_study(runs: StudyRuns, tail: float = 0.5) -> StudyReport:
    """Compare the variants of a study and fit scaling laws to it.

    Args:
        runs: the study.
        tail: last share of a run over which its training loss is averaged for paired differences.
    """
    confounders = confounded(runs)
    differences, views = paired_differences(runs, tail), (iso_step(runs), iso_image(runs), iso_flop(runs))
    return StudyReport(
        runs=runs,
        views=views,
        summary=summary_table(runs),
        differences=differences,
        means=mean_differences(differences),
        trends=size_trends(differences, runs.sizes),
        fits=fit_study(runs, confounded=confounders) if len(confounders) < len(LawKind) else None,
        confounded=confounders,
    )


def study_figures(report: StudyReport) -> dict[str, tuple[Figure, pd.DataFrame]]:
    """Draw every figure that the study allows: name -> the figure and the numbers in it."""
    runs, fits = report.runs, report.fits
    # Where other factors change with size, sizes are shown at each equal budget, and not as scaling.
    scaling = LawKind.SIZE not in report.confounded
    drawn = {"scaling": scaling_figure(runs)} if scaling else {"views": views_figure(runs, report.views)}
    drawn["curves"] = curves_figure(runs)
    if comparisons(runs):
        drawn["differences"] = differences_figure(runs, report.differences)
    if fits is None:
        return drawn
    if fits.shared is not None and fits.shared.holds:
        drawn["fits"] = fits_figure(runs, fits.shared)
    if fits.surface is not None and fits.surface.holds:
        drawn["surface"] = surface_figure(runs, fits.surface)
    laws = [law for law in (fits.shared, fits.surface) if law is not None and law.holds]
    if laws:
        drawn["profile"] = profile_figure(laws)
    if fits.compute:
        drawn["compute"] = compute_figure(runs, fits.compute)
    return drawn


def write_study_report(report: StudyReport, folder: Path) -> list[Path]:
    """Write all figures and tables of a study, and its page; returns the files.

    Args:
        report: see `analyze_study`.
        folder: is made if it does not exist.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files, pictures = [], {}
    with plt.style.context(STYLE):
        for name, (figure, numbers) in study_figures(report).items():
            pictures[name] = folder / f"{name}.png"
            for suffix in (".png", ".pdf"):
                figure.savefig(folder / f"{name}{suffix}")
                files.append(folder / f"{name}{suffix}")
            plt.close(figure)
            numbers.to_csv(folder / f"{name}.csv", index=False)
            files.append(folder / f"{name}.csv")
    tables = {"table": report.summary, "difference_table": difference_table(report.means)}
    if report.fits is not None:
        estimates = estimate_table(report.fits)
        tables |= {"estimate_table": estimates} if len(estimates) else {}
        tables["fit_table"] = fit_table(report.fits)
    for name, table in tables.items():
        files += write_table(table, folder / name)
    checkpoints = folder / "checkpoints.parquet"
    report.runs.checkpoints.to_parquet(checkpoints, index=False)
    study = report.runs.study
    sections = [*_sections(report, tables, pictures), page.provenance(report.runs, list(pictures.values()))]
    return [*files, checkpoints, *page.write_report(folder, study.name, [study.question.strip()], sections)]


def _sections(report: StudyReport, tables: Mapping[str, pd.DataFrame], pictures: Mapping[str, Path]) -> list[Section]:
    """Return the sections of the page, in a reader's order."""
    runs, fits = report.runs, report.fits
    excluded = [f"{r['label']} ({r['cell']}): {r['status']}, {r['reason']}." for r in records(runs.excluded)]
    return [
        Section(title="Design", lines=design_sentences(runs, report.views)),
        Section(title="Losses", tables=[report.summary], pictures=_named(pictures, "scaling", "views", "curves")),
        _differences(report, _named(pictures, "differences")),
        Section(
            title="Scaling laws",
            lines=[*_not_fitted(report), *([] if fits is None else fit_sentences(fits))],
            tables=[] if fits is None else [*_named(tables, "estimate_table", "fit_table"), fits.slopes],
            pictures=_named(pictures, "fits", "surface", "profile", "compute"),
        ),
        Section(title="Excluded runs", lines=excluded or ["None."]),
    ]


def _not_fitted(report: StudyReport) -> list[str]:
    return [f"Not fitted: {LAWS[law]}, which is confounded with {names}." for law, names in report.confounded.items()]


def _named(found: Mapping[str, T], *names: str) -> list[T]:
    return [found[name] for name in names if name in found]


def _differences(report: StudyReport, pictures: list[Path]) -> Section:
    if not len(report.means):
        return Section(title="Paired differences", lines=[NO_PAIRS])
    objectives = report.runs.objectives
    lines = method_sentences(report.means)
    lines += [line for metric in objectives for line in comparison_sentences(report.means, metric)]
    means, trends = (table[table["metric"].isin(objectives)] for table in (report.means, report.trends))
    tables = [difference_table(means), *([trend_table(trends)] if len(trends) else [])]
    others = [OTHER_METRICS] if len(means) < len(report.means) else []
    return Section(title="Paired differences", lines=[*lines, *others], tables=tables, pictures=pictures)
