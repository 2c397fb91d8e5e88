"""What MLflow shows of a study: its question, the answer so far, its cells, and the commands that say more."""

from collections.abc import Mapping
from dataclasses import dataclass

from lina_lab.records.runstore import NOTE_LENGTH
from lina_lab.records.status import CellStatus
from lina_lab.study.answer import Answer, answer
from lina_lab.study.cells import CellState
from lina_lab.study.grid import Plan
from lina_lab.study.rounds import notes
from lina_lab.study.summary import Summary, table
from lina_lab.util.markup import markdown_text

NO_PRIMARY = "No primary comparison is declared: the report calls every difference exploratory."
COMMANDS = {
    "lina status study={}": "every cell, its progress and the time left",
    "lina plots study={}": "the report, with all comparisons and figures",
    "lina run study={}": "goes on with the study, with the arguments that it was begun with",
}
"""Command -> what it does; each takes the folder of runs, unless it is `runs`."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a study stands."""

    counts: Mapping[CellStatus, int]
    """Cells of each status."""
    answer: Answer | None
    note: str
    """The description of the study's run, as Markdown."""
    table: str
    """Markdown: see `summary.table`."""


def standing(plan: Plan, states: Mapping[str, CellState], summary: Summary) -> Standing:
    """How a study stands now.

    Args:
        plan: the study with its cells.
        states: states of the cells, by config hash.
        summary: the cells by status.
    """
    found, rows = answer(plan, states), table(plan, states)
    return Standing(counts=summary.counts, answer=found, note=_note(plan, summary, found, rows), table=rows)


def first_note(plan: Plan) -> str:
    """The description of a study of which nothing is known yet."""
    return f"**{markdown_text(plan.study.question.strip())}**"


def _note(plan: Plan, summary: Summary, found: Answer | None, rows: str) -> str:
    study = plan.study
    counts = ", ".join(f"{count} {status}" for status, count in summary.counts.items())
    primary = NO_PRIMARY if found is None and study.primary is None else f"Primary comparison: {found}"
    lines = [primary] if found is not None or study.primary is None else []
    lines += [f"Cells: {counts}.", *notes(plan), *([summary.stopped] if summary.stopped else [])]
    width = max(map(len, COMMANDS))
    commands = [f"    {command:<{width}}  # {what}".replace("{}", study.name) for command, what in COMMANDS.items()]
    parts = [first_note(plan), *map(markdown_text, lines), rows.rstrip(), "\n".join(commands)]
    text = "\n\n".join(parts)
    # Without the table, which is an artifact too.
    return text if len(text) <= NOTE_LENGTH else "\n\n".join([*parts[:-2], parts[-1]])[:NOTE_LENGTH]
