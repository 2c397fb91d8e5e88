"""What a study gave up by `study.pruning`, in sentences."""

from lina_lab.records.status import CellStatus

from ..load.runs import StudyRuns
from .tables import count, records

EXPLORATORY = (
    "Cells were given up by what they measured early, so seeds that begin badly are missing where a variant has pruned "
    "cells. All verdicts of this study are therefore exploratory, that of the primary comparison too; a study without "
    "pruning, or with rule=racing, can confirm them."
)
RACED = (
    "Racing gives up seeds of a variant before they are trained, and none of the primary comparison, whose verdict "
    "stands. A variant that left the race has fewer seeds. Its intervals here are for one look; it left by repeated "
    "ones."
)


def pruned_sentences(runs: StudyRuns) -> list[str]:
    """Say how many cells were given up by which rule, of which variants, and what that means for verdicts."""
    pruned, study = runs.pruned, runs.study
    if pruned.empty:
        return []
    rule = (
        "a rule that the study no longer has" if study.pruning is None else f"study.pruning.rule={study.pruning.rule}"
    )
    parts = []
    for (variant, size), group in pruned.groupby(["variant", "size"], sort=False):
        cells = runs.cells[(runs.cells["variant"] == variant) & (runs.cells["size"] == size)]
        parts.append(f"“{variant}” at {study.size_axis} {size} lacks {len(group)} and has {count(len(cells), 'seed')}")
    lines = [f"Pruned: {count(len(pruned), 'cell')} by {rule}, which no average counts: {'; '.join(parts)}."]
    return [*lines, EXPLORATORY if pruned["trained"].any() else RACED]


def pruned_runs(runs: StudyRuns) -> list[str]:
    """List the runs that were pruned, those of one reason together."""
    rows = runs.excluded[runs.excluded["status"] == CellStatus.PRUNED]
    lines = []
    for reason, group in rows.groupby("reason", sort=False):
        first = records(group)[0]
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        lines.append(f"{first['label']} ({first['cell']}){more}: pruned, {reason}.")
    return lines
