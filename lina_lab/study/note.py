"""What MLflow shows of a study: its question, the answer so far, its cells, and the commands that say more."""

from collections.abc import Mapping
from dataclasses import dataclass

from lina_lab.records import runstore
from lina_lab.records.runstore import NOTE_LENGTH
from lina_lab.records.status import CellStatus
from lina_lab.study.answer import Answer, answer
from lina_lab.study.cells import CellState
from lina_lab.study.grid import Plan
from lina_lab.study.rounds import notes
from lina_lab.study.summary import Summary, table
from lina_lab.util.compat.mlflow_views import shared_view, shared_view_address
from lina_lab.util.markup import markdown_text

NO_PRIMARY = "No primary comparison is declared: the report calls every difference exploratory."
COMMANDS = {
    "lina status study={}": "every cell, its progress and the time left",
    "lina plots study={}": "the report, with all comparisons and figures",
    "lina run study={}": "goes on with the study, with the arguments that it was begun with",
}
"""Command -> what it does; each takes the folder of runs, unless it is `runs`."""


VIEW = "cells"
"""The view of the study's cells in MLflow's pages, by its name in the address."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a study stands."""

    plan: Plan
    summary: Summary
    answer: Answer | None
    table: str
    """Markdown: see `summary.table`."""

    @property
    def numbers(self) -> dict[str, float]:
        """Metrics of the study's run: cells of each status, and what is known of the primary comparison."""
        counts = {f"cells/{status}": float(self.summary.counts.get(status, 0)) for status in CellStatus}
        return counts if self.answer is None else counts | self.answer.numbers

    @property
    def counts(self) -> str:
        """Cells of each status, for people."""
        return ", ".join(f"{count} {status}" for status, count in self.summary.counts.items())

    def note(self, experiment: str) -> str:
        """The description of the study's run in an experiment, as Markdown."""
        study, stopped = self.plan.study, self.summary.stopped
        answer = [] if self.answer is None else [f"Primary comparison: {self.answer}"]
        answer += [NO_PRIMARY] if study.primary is None else []
        cells = [f"Cells: {self.counts}.", *notes(self.plan), *([stopped] if stopped else [])]
        # A page shows the first lines, until a reader asks for more.
        first = [_question(self.plan), *map(markdown_text, answer), _link(experiment), *map(markdown_text, cells)]
        width = max(map(len, COMMANDS))
        commands = [f"    {command:<{width}}  # {what}".replace("{}", study.name) for command, what in COMMANDS.items()]
        text = "\n\n".join([*first, self.table.rstrip(), "\n".join(commands)])
        # Without the table, which is an artifact too.
        return text if len(text) <= NOTE_LENGTH else "\n\n".join([*first, "\n".join(commands)])[:NOTE_LENGTH]


def standing(plan: Plan, states: Mapping[str, CellState], summary: Summary) -> Standing:
    """How a study stands now.

    Args:
        plan: the study with its cells.
        states: states of the cells, by config hash.
        summary: the cells by status.
    """
    return Standing(plan=plan, summary=summary, answer=answer(plan, states), table=table(plan, states))


def first_note(plan: Plan, experiment: str) -> str:
    """The description of a study of which nothing is known yet, with a link to its cells."""
    return f"{_question(plan)}\n\n{_link(experiment)}"


def _question(plan: Plan) -> str:
    return f"**{markdown_text(plan.study.question.strip())}**"


def _link(experiment: str) -> str:
    return f"[All cells, with axes and objectives]({shared_view_address(experiment, VIEW)})"


def experiment_tags(plan: Plan, experiment: str, known: Mapping[str, str]) -> dict[str, str]:
    """Tags that an experiment lacks: a description, unless somebody wrote one, and the columns of its cells.

    Args:
        plan: the study.
        experiment: the experiment's id.
        known: the tags that it has.
    """
    study = plan.study
    fields = [*(field for axis in study.axes.values() for field in axis), *study.tune, "seed"]
    objectives = [objective.metric for objective in study.objectives]
    metrics = dict.fromkeys([*objectives, runstore.TRAIN_LOSS, runstore.IMAGES_PER_SECOND])
    columns = [*(("params", name) for name in fields), *(("metrics", name) for name in metrics)]
    order = "metrics", study.objective
    ascending = study.objectives[0].direction == "minimize"
    name, view = shared_view(VIEW, columns, order, f"tags.`{runstore.KIND}` = 'cell'", ascending=ascending)
    wanted = {name: view, runstore.NOTE: known.get(runstore.NOTE, first_note(plan, experiment))}
    return {tag: value for tag, value in wanted.items() if known.get(tag) != value}
