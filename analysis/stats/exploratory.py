"""Every comparison of a study that is not the primary one, corrected as one family."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd

from lina_lab.decisions.verdicts import Outcome

from ..load.runs import StudyRuns
from . import contrasts
from .interactions import OTHER_PAIR, interaction_rows
from .paired import COMPARED, ROLES, holm, mean_differences, paired_differences, size_trends

ONE_SEED = "one seed"
EQUAL_SEEDS = "all seeds differ by the same amount, so their spread says nothing"
NO_SEED = "no seed has all the cells of the comparison"
HOLM_LEVEL = 0.05
EXPLORATORY = [
    *COMPARED,
    *("kind", "smallest", "largest", "difference", "block_se", "seed_se", "low", "high", "p", "seeds", "excludes_zero"),
    *OTHER_PAIR,
    *("needed_deviation", "holm", "outcome", "reason"),
]
"""Columns of `exploratory`."""


class Kind(StrEnum):
    """What an exploratory row compares."""

    DIFFERENCE = "difference"
    """Treatment minus baseline at one size."""
    GROWTH = "growth"
    """That difference at the largest size minus the same at the smallest."""
    LOG_GROWTH = "log growth"
    """The same of logarithms: the change of the losses' ratio."""
    INTERACTION = "interaction"
    """That difference of logarithms with one task minus the same with another."""


def exploratory(runs: StudyRuns, differences: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return every comparison that is not the primary one, Holm-corrected as one family.

    The family is the table: every axis, size and metric, differences, growth, and interactions with tasks. Variances
    are not pooled over sizes here: at the small levels of a family, unequal noise would make many false statements.

    Args:
        runs: the study.
        differences: see `paired.paired_differences`; None: they are taken from the study.

    Returns:
        `paired.COMPARED` and `kind` (`Kind`), `smallest`, `largest` (sizes of a growth, whose `size` is the largest;
        NaN for a difference), `difference`, `block_se`, `seed_se`, `low`, `high` (95% interval of this row alone), `p`,
        `seeds`, `excludes_zero` (that interval), `interactions.OTHER_PAIR` (None but for an interaction),
        `needed_deviation` (a deviation over seeds above this would be needed to explain the difference by the seed),
        `holm`, `outcome` (`Outcome`, after the correction), `reason` (why there is no interval, or empty).
    """
    differences = paired_differences(runs) if differences is None else differences
    table, crossed = family(differences, runs.sizes), interaction_rows(runs, differences)
    if len(crossed):
        table = pd.concat([table, crossed.assign(kind=Kind.INTERACTION)], ignore_index=True)
    return corrected(table[~_is_primary(runs, table)].reset_index(drop=True))


def family(differences: pd.DataFrame, sizes: Sequence[Any]) -> pd.DataFrame:
    """Return every difference and growth with its own interval: the columns of `exploratory` up to `excludes_zero`.

    Args:
        differences: see `paired.paired_differences`.
        sizes: all sizes, the smallest first.
    """
    parts = [mean_differences(differences).assign(kind=Kind.DIFFERENCE)]
    for kind, column in ((Kind.GROWTH, "difference"), (Kind.LOG_GROWTH, "log_ratio")):
        trends = size_trends(differences, sizes, column)
        parts.append(trends.assign(kind=kind, size=trends["largest"]))
    table = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return table.reindex(columns=EXPLORATORY[: EXPLORATORY.index("needed_deviation")])


def corrected(table: pd.DataFrame) -> pd.DataFrame:
    """Return a family of tests with what holds of it after Holm's correction.

    Args:
        table: see `family`.
    """
    difference, seeds = table["difference"].astype(float), table["seeds"].astype(int)
    adjusted = holm(table["p"].astype(float))
    outcome = np.where(difference < 0, Outcome.LOWER, Outcome.HIGHER)
    outcome = np.where(adjusted <= HOLM_LEVEL, outcome, Outcome.UNDECIDED)
    return table.assign(
        needed_deviation=needed_deviation(difference, seeds),
        holm=adjusted,
        outcome=np.where(adjusted.isna(), Outcome.NO_INTERVAL, outcome),
        reason=[reason(count) if missing else "" for count, missing in zip(seeds, adjusted.isna(), strict=True)],
    )


def _is_primary(runs: StudyRuns, table: pd.DataFrame) -> "pd.Series[bool]":
    """Return which rows hold the primary comparison, in either direction."""
    if runs.study.primary is None:
        return pd.Series(False, index=table.index)
    terms, metric = runs.study.primary_terms(), runs.study.primary.metric or runs.study.objective
    kind = {
        "difference": Kind.DIFFERENCE,
        "growth": Kind.GROWTH if runs.study.primary.scale == "linear" else Kind.LOG_GROWTH,
        "interaction": Kind.INTERACTION,
    }[runs.study.primary.quantity]
    variants = {contrasts.variant(runs, term) for term in terms}
    same = (table["metric"] == metric) & (table["kind"] == kind) & (table["size"] == contrasts.size(runs, terms[0]))
    pairs = [*ROLES, *(OTHER_PAIR if kind is Kind.INTERACTION else [])]
    found: pd.Series[bool] = same & table[pairs].isin(variants).all(axis=1)
    return found


def needed_deviation(difference: Any, seeds: Any) -> Any:
    """Return the deviation over seeds above which the mean of these seeds would not be told from 0."""
    return abs(difference) * seeds**0.5 / 1.96


def reason(seeds: int) -> str:
    """Return why a comparison of so many seeds has no interval."""
    return {0: NO_SEED, 1: ONE_SEED}.get(seeds, EQUAL_SEEDS)
