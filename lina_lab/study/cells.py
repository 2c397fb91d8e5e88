"""A cell's state as one of Optuna's trials holds it."""

from collections.abc import Mapping
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState, create_trial

from lina_lab.records.status import CellStatus
from lina_lab.study.grid import Cell, Plan
from lina_lab.util.compat.optuna import TrialRow

CELL, STATUS, ERROR, ATTEMPTS_LOST = "cell", "status", "error", "deaths"
"""Names of a trial's attributes, as they are stored since version 0.1."""


@dataclass(frozen=True, kw_only=True)
class CellState:
    """The state of one cell in the store."""

    config_hash: str
    status: CellStatus
    trial_id: int
    """Optuna's number of the latest attempt."""
    error: str | None = None
    attempts_lost: int = 0
    """Attempts whose process died."""
    values: list[float] | None = None
    """The objectives of a cell that is done."""


def open_cells(plan: Plan, states: Mapping[str, CellState]) -> list[Cell]:
    """The plan's cells that have not ended; one that the store does not know is new."""
    return [cell for cell in plan.cells if cell.config_hash not in states or states[cell.config_hash].status.open]


def waiting_trial(cell: Cell, attempts_lost: int = 0) -> FrozenTrial:
    """A trial that queues a cell."""
    attributes = {CELL: cell.config_hash, "seed": cell.config.seed, **cell.axes, **cell.tuned}
    lost = {ATTEMPTS_LOST: attempts_lost} if attempts_lost else {}
    return create_trial(state=TrialState.WAITING, user_attrs=attributes | lost)


def state_of(trial: TrialRow) -> CellState | None:
    """The state of a trial's cell; None for a trial of another tool."""
    attributes = trial.attributes
    if CELL not in attributes:
        return None
    if trial.state in (TrialState.WAITING, TrialState.RUNNING):
        status = CellStatus.WAITING if trial.state is TrialState.WAITING else CellStatus.RUNNING
    elif STATUS in attributes:
        status = CellStatus(attributes[STATUS])
    else:
        # Another tool ended it.
        status = CellStatus.DONE if trial.state is TrialState.COMPLETE else CellStatus.INTERRUPTED
    return CellState(
        config_hash=attributes[CELL],
        status=status,
        trial_id=trial.trial_id,
        error=attributes.get(ERROR),
        attempts_lost=attributes.get(ATTEMPTS_LOST, 0),
        values=trial.values,
    )
