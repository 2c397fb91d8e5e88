"""The design of a study, its metrics beside each other, and its tuned values, in sentences."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from lina_lab.records.status import CellStatus

from ..load.cells import CAUTIONS
from ..load.runs import StudyRuns
from ..stats.agreement import metric_agreement
from ..stats.budgets import BudgetView, audit_runs
from .metric_names import metric_name
from .pruned import pruned_runs
from .tables import count, plain, records, signed

NAMED = 4
"""Cells that a sentence names."""
NOT_TUNED = (
    "No rate was tuned for each variant and size: all were trained with the rates of the configuration. A variant that "
    "needs another rate is then held back, and the order of variants may change with the rate."
)


def design_sentences(runs: StudyRuns, views: Sequence[BudgetView]) -> list[str]:
    """Return the audit that `lina plan` prints too, and what each equal budget may claim where it is confounded."""
    lines = [*cautions_of(runs), *audit_runs(runs).sentences()]
    return [*lines, *(f"{view.title}." for view in views if not all(each.isolates_size for each in views))]


def cautions_of(runs: StudyRuns) -> list[str]:
    """Return a sentence for each number of the cells that means less than its name says, as `lina plan` does."""
    lines = "\n".join(runs.cells[CAUTIONS].unique()) if CAUTIONS in runs.cells else ""
    return [f"{line}." for line in dict.fromkeys(lines.splitlines()) if line]


def agreement_sentences(runs: StudyRuns, means: pd.DataFrame) -> list[str]:
    """Say where another objective does not point the way the main one does.

    Args:
        runs: the study.
        means: see `stats.paired.mean_differences`.
    """
    main, *others = runs.study.objectives
    lines = []
    for other in others:
        same = other.direction == main.direction
        found = metric_agreement(means, main.metric, other.metric, same_direction=same)
        names = metric_name(main.metric), metric_name(other.metric)
        if len(found):
            lost = int(found["disagree"].sum())
            both = f"{names[0][0].upper()}{names[0][1:]} and {names[1]}"
            where = f"disagree in {lost} of" if lost else "agree in all"
            lines.append(f"{both} {where} {count(len(found), 'difference')} that have both.")
        for row in records(found[found["disagree"]]):
            values = runs.cells[runs.cells["size"] == row["size"]].groupby("variant")[other.metric].mean()
            held = f"{values[row['treatment']]:.4g} against {values[row['baseline']]:.4g}"
            both = f"{names[0]} {signed(row['first'])}, {names[1]} {signed(row['second'])} ({held})"
            why = "they point to different variants"
            if not row["opposite"]:
                why = f"{names[1]} differs {row['ratio']:.0f} times as much as {names[0]} lets expect"
            lines.append(f"{row['comparison']}, {runs.study.size_axis} {row['size']}: {both}; {why}.")
    return lines


def absent_sentence(runs: StudyRuns) -> str:
    """Say which of the study's cells have no run; there are some."""
    cells, names = count(len(runs.absent), "cell"), ", ".join(runs.absent[:NAMED])
    more = f" and {len(runs.absent) - NAMED} more" if len(runs.absent) > NAMED else ""
    return (
        f"{cells} of the study without a run ({names}{more}): not trained yet, or lost; "
        f"“lina run study={runs.study.name}” trains them, or restores them from their folders."
    )


def excluded_sentences(runs: StudyRuns, diverged: pd.DataFrame) -> list[str]:
    """List the runs that do not count, and how many seeds of each variant diverged.

    Args:
        runs: the study.
        diverged: see `stats.verdicts.divergences`.
    """
    lines = [
        f"“{row['variant']}” diverged at {runs.study.size_axis} {row['size']} in {row['diverged']} of "
        f"{count(row['seeds'], 'seed')}."
        for row in records(diverged[diverged["diverged"] > 0])
    ]
    if runs.absent:
        lines = [absent_sentence(runs), *lines]
    others = runs.excluded[runs.excluded["status"] != CellStatus.PRUNED]
    lines += [f"{r['label']} ({r['cell']}): {r['status']}, {r['reason']}." for r in records(others)]
    return [*lines, *pruned_runs(runs)]


def rounding_sentences(table: pd.DataFrame, changes: Mapping[str, int]) -> list[str]:
    """Say how far each variant amplifies rounding.

    Args:
        table: see `stats.rounding.rounding_deviations`.
        changes: field of study.resources -> its value in the second training.
    """
    how = ", ".join(f"{name}={value}" for name, value in changes.items())
    if table.empty:
        return [f"No cell has been trained a second time with {how} yet."]
    lines = [f"Cells were trained a second time with the same seed and {how}: the same sums in another order."]
    if (table["largest change"] == 0).all():
        return [*lines, "Both trainings are equal bit for bit: on this machine that is no other order of sums."]
    for metric in dict.fromkeys(table["metric"]):
        worst = max(records(table[table["metric"] == metric]), key=lambda row: row["SD of rounding"])
        seeds = f"{plain(worst['SD of seeds'])} over seeds"
        beside = seeds if math.isfinite(worst["SD of seeds"]) else "and one seed shows no deviation of seeds"
        lines.append(
            f"{metric_name(metric)}: rounding alone moves {worst['variant']} at size {worst['size']} the most, with a "
            f"standard deviation of {plain(worst['SD of rounding'])}, {beside}."
        )
    return lines
