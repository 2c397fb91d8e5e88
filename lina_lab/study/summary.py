"""The state of a study so far: counts, and means over seeds."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lina_lab.records.status import CellStatus, Phase
from lina_lab.study.cells import CellState
from lina_lab.study.grid import Cell, Plan
from lina_lab.util.markup import markdown_text

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The state of a study when a command ends."""

    counts: dict[CellStatus, int]
    """Cells of the plan by status."""
    failures: dict[str, str]
    """Label of each failed cell -> its error."""
    stopped: str = ""
    """Why no cell can follow although the study has not ended, as a sentence; empty: nothing is wrong."""
    overhead_seconds: list[float] = field(default_factory=list)
    """Wall time of each cell that this process trained, from claim to end, outside `Trainer.fit`."""


def summarise(plan: Plan, states: Mapping[str, CellState], overhead: list[float]) -> Summary:
    """Count the plan's cells; one that the store does not know counts as waiting."""
    mine = [(cell, states.get(cell.config_hash)) for cell in plan.cells]
    return Summary(
        counts=dict(Counter(CellStatus.WAITING if state is None else state.status for _, state in mine)),
        failures={
            cell.label: str(state.error)
            for cell, state in mine
            if state is not None and state.status is CellStatus.FAILED
        },
        stopped=plan.stopped,
        overhead_seconds=overhead,
    )


def table(plan: Plan, states: Mapping[str, CellState]) -> str:
    """Markdown: a row for each point of the grid: its cells by status; mean and standard deviation over seeds.

    The comparison comes first, then the values that were tried in tuning, in a table of their own.
    """
    parts = {phase: [cell for cell in plan.cells if cell.phase is phase] for phase in Phase}
    return "\n".join(_rows(plan, states, cells) for cells in parts.values() if cells)


def _rows(plan: Plan, states: Mapping[str, CellState], cells: list[Cell]) -> str:
    import pandas as pd  # takes a second, which commands that start nothing do without

    objectives = [objective.metric for objective in plan.study.objectives]
    rows: list[dict[str, Any]] = []
    for cell in cells:
        state = states.get(cell.config_hash)
        values = (state.values if state is not None else None) or [float("nan")] * len(objectives)
        status = CellStatus.WAITING if state is None else state.status
        point = {name: markdown_text(str(value)) for name, value in (cell.axes | cell.tuned).items()}
        rows.append({**point, "status": status.value, **dict(zip(objectives, values, strict=True))})
    frame, keys = pd.DataFrame(rows), [*cells[0].axes, *cells[0].tuned]
    grouped = frame.groupby(keys, sort=False)
    columns: dict[str, Any] = {"cells": grouped["status"].agg(_counted)}
    for name in objectives:
        columns[f"{name} mean"], columns[f"{name} std"] = grouped[name].mean(), grouped[name].std()
    return str(pd.DataFrame(columns).reset_index().to_markdown(index=False, floatfmt=".4f")) + "\n"


def _counted(statuses: "pd.Series[str]") -> str:
    return ", ".join(f"{count} {status}" for status, count in Counter(statuses).items())
