"""A study's report: what is compared and fitted, its figures and its tables."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lina_lab.config.factors import LawKind
from lina_lab.records.runstore import TRAIN_LOSS

from ..load.kinds import by_kind
from ..load.runs import StudyRuns
from ..load.samples import Samples
from ..stats.budgets import BudgetView, confounded, iso_flop, iso_image, iso_step
from ..stats.exploratory import Kind, exploratory
from ..stats.interactions import interaction_values
from ..stats.paired import paired_differences
from ..stats.rounding import rounding_deviations
from ..stats.study_fits import StudyFits, fit_study
from ..stats.trainings import by_training
from ..stats.tuned import tuned_rates
from ..stats.verdicts import PrimaryVerdict, divergences, primary_verdict
from .ema_report import lengths_figure, lengths_table
from .figures import curves_figure, scaling_figure, views_figure
from .fit_figures import compute_figure, fits_figure, profile_figure, surface_figure
from .fit_narrative import estimate_table, fit_table
from .forest import differences_figure, multipliers_figure
from .samples_figure import samples_figures
from .tables import difference_table, summary_table, tuned_table, with_other


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """The results that a report shows."""

    runs: StudyRuns
    verdict: PrimaryVerdict | None
    """None where the study declares no primary comparison."""
    exploratory: pd.DataFrame
    """All other comparisons: see `stats.exploratory.exploratory`."""
    differences: pd.DataFrame
    """Paired differences of each seed: see `stats.paired.paired_differences`."""
    diverged: pd.DataFrame
    """See `stats.verdicts.divergences`."""
    tuned: pd.DataFrame | None
    """See `stats.tuned.tuned_rates`."""
    rounding: pd.DataFrame
    """See `stats.rounding.rounding_deviations`; empty where the study does not measure rounding."""
    views: tuple[BudgetView, ...]
    """Sizes at equal steps, images and FLOPs."""
    summary: pd.DataFrame
    """See `tables.summary_table`."""
    fits: StudyFits | None
    """None where every law is confounded, or the study has several tasks."""
    confounded: Mapping[LawKind, str]
    """Kind of law -> the factors that are confounded with size in it; the other kinds are fitted."""

    @property
    def isolates_size(self) -> bool:
        """Whether sizes can be compared at the end of training."""
        return LawKind.SIZE not in self.confounded


def analyze_study(runs: StudyRuns, tail: float = 0.5) -> StudyReport:
    """Judge and compare the variants of a study and fit scaling laws to it.

    Args:
        runs: the study.
        tail: last share of a run over which its training loss is averaged for paired differences.
    """
    confounders, differences = confounded(runs), paired_differences(runs, tail)
    fitted = len(confounders) < len(LawKind) and not by_kind(runs)
    return StudyReport(
        runs=runs,
        verdict=primary_verdict(runs),
        exploratory=exploratory(runs, differences),
        differences=differences,
        diverged=divergences(runs),
        tuned=tuned_rates(runs),
        rounding=rounding_deviations(runs),
        views=(iso_step(runs), iso_image(runs), iso_flop(runs)),
        summary=summary_table(runs),
        fits=fit_study(runs, confounders) if fitted else None,
        confounded=confounders,
    )


def study_figures(report: StudyReport) -> dict[str, tuple[Figure, pd.DataFrame]]:
    """Draw every figure that the study allows: name -> the figure and the numbers in it.

    Where a study has several tasks, the figures of each have its name after a hyphen.
    """
    parts = by_kind(report.runs)
    return _figures_of_kinds(report, parts) if parts else _figures(report, main_metric(report))


def _figures(report: StudyReport, main: str) -> dict[str, tuple[Figure, pd.DataFrame]]:
    runs, fits = report.runs, report.fits
    # Where other factors change with size, sizes are shown at each equal budget, and not as scaling.
    drawn = {"scaling": scaling_figure(runs)} if report.isolates_size else {"views": views_figure(runs, report.views)}
    drawn["curves"] = curves_figure(runs)
    known = list(dict.fromkeys([*runs.objectives, TRAIN_LOSS]))
    compared = [metric for metric in known if (report.exploratory["metric"] == metric).any()]
    others = [metric for metric in compared if metric != main]
    if report.verdict is not None and report.verdict.scale == "log":
        # The other differences are not of logarithms.
        none = report.differences[:0], report.exploratory[:0]
        drawn["primary"], others = differences_figure(runs, *none, [main], report.verdict), compared
    elif main in compared or report.verdict is not None:
        drawn["primary"] = differences_figure(runs, report.differences, report.exploratory, [main], report.verdict)
    if others:
        drawn["differences"] = differences_figure(runs, report.differences, report.exploratory, others)
    if (lengths := lengths_figure(runs)) is not None:
        drawn["ema_lengths"] = lengths
    drawn |= samples_figures(runs)
    return drawn if fits is None else drawn | _law_figures(runs, fits)


def _figures_of_kinds(report: StudyReport, parts: Mapping[str, StudyRuns]) -> dict[str, tuple[Figure, pd.DataFrame]]:
    """Draw each figure for one kind of loss at a time, with the kind in its name, and what compares kinds alone."""
    drawn, main, verdict = dict[str, tuple[Figure, pd.DataFrame]](), main_metric(report), report.verdict
    table, crossed = report.exploratory, interaction_values(report.runs, report.differences).assign(block_se=np.nan)
    across = verdict is not None and verdict.quantity == "interaction"
    if across:
        drawn["primary"] = differences_figure(report.runs, crossed, table, [main], verdict, Kind.INTERACTION)
    for kind, runs in parts.items():
        mine = table[table["treatment"].isin(runs.variants) & (table["kind"] != Kind.INTERACTION)]
        own = replace(
            report,
            runs=replace(runs, samples=Samples()),
            verdict=verdict if verdict is not None and not across and verdict.treatment in runs.variants else None,
            exploratory=mine,
            differences=report.differences[report.differences["treatment"].isin(runs.variants)],
            views=(iso_step(runs), iso_image(runs), iso_flop(runs)),
        )
        drawn |= {f"{name}-{kind}": figure for name, figure in _figures(own, main).items()}
    return drawn | samples_figures(report.runs)


def _law_figures(runs: StudyRuns, fits: StudyFits) -> dict[str, tuple[Figure, pd.DataFrame]]:
    drawn, whole = {}, by_training(runs)
    if fits.shared is not None and fits.shared.holds:
        drawn["fits"] = fits_figure(runs, fits.shared)
    numbers = [exponent.free.value for pair in fits.surface_exponents.values() for exponent in pair]
    if fits.surface is not None and fits.surface.holds and np.isfinite(numbers).any():
        drawn["surface"] = surface_figure(whole, fits.surface)
    laws = [law for law in (fits.shared, fits.surface) if law is not None and law.holds]
    if laws:
        drawn["profile"] = profile_figure(laws)
    if fits.compute is not None:
        drawn["compute"] = compute_figure(whole, fits.compute)
    known = [one for one in fits.multipliers if np.isfinite([one.pinned.value, one.free.value]).any()]
    if known:
        drawn["multipliers"] = multipliers_figure(known, list(dict.fromkeys([*runs.variants, *whole.variants])))
    return drawn


def main_metric(report: StudyReport) -> str:
    """Return the metric of the top section: the primary comparison's, or the main objective."""
    return report.runs.study.objective if report.verdict is None else report.verdict.metric


def study_tables(report: StudyReport) -> dict[str, pd.DataFrame]:
    """Return every table that the study allows: name -> table. Empty ones are left out."""
    main = report.exploratory["metric"] == main_metric(report)
    top = difference_table(report.exploratory[main], report.verdict)
    for metric in report.runs.objectives:
        # A loss and the quality of samples may disagree, so they stand beside each other.
        top = with_other(top, report.exploratory, metric) if metric != main_metric(report) and len(top) else top
    tables = {
        "table": report.summary,
        "primary_table": top,
        "difference_table": difference_table(report.exploratory[~main]),
        "rounding_table": report.rounding,
        "divergence_table": report.diverged[report.diverged["diverged"] > 0],
        "ema_table": lengths_table(report.runs),
    }
    if report.tuned is not None:
        tables["tuned_table"] = tuned_table(report.tuned)
    if report.fits is not None:
        tables |= {"estimate_table": estimate_table(report.fits), "fit_table": fit_table(report.fits)}
        tables["slope_table"] = report.fits.slopes
    return {name: table for name, table in tables.items() if len(table)}
