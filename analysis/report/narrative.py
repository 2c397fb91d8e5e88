"""Results in sentences: what is confounded with size, and which paired differences exclude zero."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lina_lab.config.factors import PAIRING

from ..load.runs import StudyRuns
from ..stats.budgets import BudgetView, audit_runs
from .metric_names import metric_name

PAIRED = f"Differences are treatment minus baseline, paired by seed. {PAIRING} "
INTERVALS = (
    "Intervals are 95% confidence intervals, Student's t over seeds. The block standard error covers noise within runs "
    "only; where it is far smaller than the interval, more seeds would help."
)
ONE_SEED = (
    "One seed per cell: no confidence intervals. The block standard error covers noise within runs, not the difference "
    "that another seed would make."
)
SOME_ONE_SEED = "Comparisons with one seed have no confidence interval."
HOLM_LEVEL = 0.05


def design_sentences(runs: StudyRuns, views: Sequence[BudgetView]) -> list[str]:
    """Return the audit that `lina plan` prints too, and what each equal budget may claim where it is confounded."""
    lines = audit_runs(runs).sentences()
    return [*lines, *(f"{view.title}." for view in views if not all(each.isolates_size for each in views))]


def method_sentences(means: pd.DataFrame) -> list[str]:
    """Say how the differences and their intervals are made.

    Args:
        means: see `stats.paired.mean_differences`.
    """
    single = means["seeds"] < 2
    if single.all():
        return [PAIRED + ONE_SEED]
    return [PAIRED + INTERVALS, *([SOME_ONE_SEED] if single.any() else [])]


def comparison_sentences(means: pd.DataFrame, metric: str) -> list[str]:
    """Say for each comparison at how many sizes the interval excludes zero, and in which direction.

    Comparisons without an interval are left out: there is nothing to say about them beyond their numbers.
    """
    mine = means[(means["metric"] == metric) & (means["seeds"] > 1)]
    return [
        f"{label}: {metric_name(metric)} {_directions(group)} ({_seeds(group)})."
        for label, group in mine.groupby("comparison", sort=False)
    ]


def _directions(group: pd.DataFrame) -> str:
    total = len(group)
    excludes = group["excludes_zero"].astype(bool)
    parts = []
    for word, side in (("lower", group["difference"] < 0), ("higher", group["difference"] > 0)):
        chosen = group[excludes & side]
        if len(chosen):
            parts.append(f"{word} at {_of(len(chosen), total)}{_uncorrected(chosen)}")
    undecided = total - int(excludes.sum())
    if undecided:
        parts.append(f"undecided at {_of(undecided, total)}, where the interval includes zero")
    return ", ".join(parts)


def _uncorrected(chosen: pd.DataFrame) -> str:
    """Count the sizes at which a difference does not hold after Holm correction."""
    lost = int((chosen["holm"] > HOLM_LEVEL).sum())
    if not lost:
        return ""
    return " (not after Holm correction)" if lost == len(chosen) else f" ({lost} not after Holm correction)"


def _of(number: int, total: int) -> str:
    return f"{number} of {total} sizes" if total > 1 else "the one size"


def _seeds(group: pd.DataFrame) -> str:
    seeds = sorted(set(group["seeds"]))
    return f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else count(seeds[0], "seed")


def count(number: Any, noun: str) -> str:
    """Write a number with its noun, in the plural where that is due."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
