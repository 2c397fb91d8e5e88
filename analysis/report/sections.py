"""The sections of a study's page in a reader's order: the answer first, everything that qualifies it folded."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import pandas as pd

from lina_lab.config.factors import LAWS, PAIRING
from lina_lab.decisions.tuning import ChoiceStatus

from ..load.kinds import kind_axes
from ..stats.paired import mean_differences
from .answer import answer_sentences
from .ema_report import lengths_sentences
from .fit_narrative import compact, fit_sentences, multiplier_sentences
from .narrative import (
    NOT_TUNED,
    absent_sentence,
    agreement_sentences,
    design_sentences,
    excluded_sentences,
    rounding_sentences,
)
from .page import Section
from .pruned import pruned_sentences
from .stages import budget_sentences, curve_sentences, source_sentences
from .study_report import StudyReport
from .tables import count

T = TypeVar("T")
TUNED = (
    "Each value was chosen on seeds that the study does not use otherwise. Regret: what the choice may give away, at "
    "most (95%), in units of the objective."
)


def study_sections(
    report: StudyReport, tables: Mapping[str, pd.DataFrame], pictures: Mapping[str, Path]
) -> list[Section]:
    """Return the sections of the page but its provenance.

    Args:
        report: the results.
        tables: name -> table, see `study_report.study_tables`.
        pictures: name -> file, see `study_report.study_figures`.
    """
    runs, table, means = report.runs, report.exploratory, mean_differences(report.differences)
    confounds = bool(report.confounded)
    excluded = excluded_sentences(runs, report.diverged)
    number, absent = len(runs.excluded), [absent_sentence(runs)] if runs.absent else []
    return [
        Section(
            title="Answer",
            lines=[
                *absent,
                *pruned_sentences(runs),
                *answer_sentences(runs, report.verdict, table),
                *budget_sentences(runs),
                *agreement_sentences(runs, means),
            ],
            pictures=_named(pictures, "primary"),
            tables=_named(tables, "primary_table"),
        ),
        Section(
            title="Generated images",
            lines=runs.samples.missing,
            pictures=_named(pictures, "samples"),
        ),
        _tuned(report, tables),
        _rounding(report, tables),
        Section(
            title=f"Design and audit{': confounded with size' if confounds else ''}",
            lines=[*source_sentences(runs), *design_sentences(runs, report.views), PAIRING],
            folded=True,
        ),
        _laws(report, tables, pictures),
        _multipliers(report, tables, pictures),
        Section(
            title="EMA length: loss and image quality against it",
            lines=lengths_sentences(runs),
            pictures=_named(pictures, "ema_lengths"),
            tables=_named(tables, "ema_table"),
            folded=True,
        ),
        Section(
            title="Other metrics",
            pictures=_named(pictures, "differences"),
            tables=_named(tables, "difference_table"),
            folded=True,
        ),
        Section(
            title="Losses and training curves",
            lines=curve_sentences(runs),
            pictures=_named(pictures, "scaling", "views", "curves"),
            tables=_named(tables, "table"),
            folded=True,
        ),
        Section(title=f"Excluded: {count(number, 'run')}", lines=excluded, folded=True),
    ]


def _tuned(report: StudyReport, tables: Mapping[str, pd.DataFrame]) -> Section:
    if report.tuned is None:
        return Section(title="Rates were not tuned", lines=[NOT_TUNED], folded=True)
    open_ends = int((report.tuned["status"] != ChoiceStatus.OK).sum())
    title = f"Tuned rates{f': {open_ends} without an optimum' if open_ends else ''}"
    return Section(title=title, lines=[TUNED], tables=_named(tables, "tuned_table"), folded=True)


def _rounding(report: StudyReport, tables: Mapping[str, pd.DataFrame]) -> Section:
    rounding = report.runs.study.rounding
    if rounding is None:
        return Section(title="Rounding")
    return Section(
        title="Rounding: how far a variant amplifies it",
        lines=rounding_sentences(report.rounding, rounding.changes),
        tables=_named(tables, "rounding_table"),
        folded=True,
    )


def _laws(report: StudyReport, tables: Mapping[str, pd.DataFrame], pictures: Mapping[str, Path]) -> Section:
    missing = "; ".join(LAWS[law] for law in report.confounded)
    lines = [f"Not fitted, because other factors change with size (see the audit): {missing}."] if missing else []
    if kind_axes(report.runs.study):
        lines = [
            "Not fitted over several tasks, whose losses are different quantities: give a task a study of its own."
        ]
    estimates = [compact(table, multipliers=False) for table in _named(tables, "estimate_table")]
    return Section(
        title="No scaling law is fitted" if report.fits is None else "Scaling laws",
        lines=[*lines, *([] if report.fits is None else fit_sentences(report.fits))],
        tables=[*estimates, *_named(tables, "fit_table", "slope_table")],
        pictures=_named(pictures, "fits", "surface", "profile", "compute"),
        folded=True,
    )


def _multipliers(report: StudyReport, tables: Mapping[str, pd.DataFrame], pictures: Mapping[str, Path]) -> Section:
    if report.fits is None or not report.fits.multipliers:
        return Section(title="Multipliers")
    worth = [compact(table, multipliers=True) for table in _named(tables, "estimate_table")]
    return Section(
        title="Multipliers: what a variant is worth",
        lines=multiplier_sentences(report.fits, report.verdict),
        tables=worth,
        pictures=_named(pictures, "multipliers"),
        folded=True,
    )


def _named(found: Mapping[str, T], *names: str) -> list[T]:
    """Return what has these names, and what has them with a task's name after a hyphen."""
    return [found[name] for wanted in names for name in found if name == wanted or name.startswith(f"{wanted}-")]
