"""A cell's state as one of Optuna's trials holds it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from lina_lab.records.record import Record
from lina_lab.records.result import TrialResult
from lina_lab.records.status import CellStatus
from lina_lab.study.grid import Cell, Plan
from lina_lab.study.lineage import own_flops
from lina_lab.util.compat.optuna import TrialRow

CELL, STATUS, ERROR, ATTEMPTS_LOST = "cell", "status", "error", "deaths"
"""Names of a trial's attributes, as they are stored since version 0.1."""
OF_AN_ATTEMPT = (STATUS, ERROR, ATTEMPTS_LOST)
IMAGES, FLOPS = "lina.images", "lina.flops"
"""Attributes of a trial since version 0.3: the images of the cell's budget, and the FLOPs of its training."""

STARTS_FROM = "starts_from"
"""Attribute of a cell that starts from another one of the study: the hash of that one."""
AGAIN = "again"
"""Attribute of a cell that is trained a second time to measure rounding: what is different from the first."""

TRIAL_STATE = {CellStatus.DONE: TrialState.COMPLETE, CellStatus.PRUNED: TrialState.PRUNED}
"""Status of a cell that has ended -> Optuna's; any other one is FAIL."""


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


def queued(cell: Cell) -> dict[str, Any]:
    """The attributes of a trial that queues a cell: all that a command which has only the store can say of it."""
    size = {IMAGES: cell.config.images_seen, FLOPS: own_flops(cell)}
    again = {AGAIN: " ".join(f"{field}={value}" for field, value in cell.again.items())} if cell.again else {}
    start = {STARTS_FROM: cell.config.start.cell} if cell.config.start.cell is not None else {}
    return {CELL: cell.config_hash, "seed": cell.config.seed, **cell.axes, **cell.tuned, **again, **start, **size}


def queued_again(attributes: Mapping[str, Any], attempts_lost: int = 0) -> dict[str, Any]:
    """The attributes of another attempt at a cell, from those of an earlier one."""
    kept = {name: value for name, value in attributes.items() if name not in OF_AN_ATTEMPT}
    return kept | ({ATTEMPTS_LOST: attempts_lost} if attempts_lost else {})


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


def record_of(
    cell: Cell, status: CellStatus, run_id: str, error: str | None, result: TrialResult | None = None
) -> Record:
    """The record of how an attempt at a cell ended."""
    return Record(
        config_hash=cell.config_hash,
        axes=cell.axes,
        seed=cell.config.seed,
        status=status,
        mlflow_run=run_id,
        result=result,
        error=error,
    )


def end_trial(
    storage: BaseStorage,
    trial_id: int,
    status: CellStatus,
    error: str | None,
    values: list[float] | None = None,
    lost: int = 0,
) -> bool:
    """Record how an attempt ended, unless that is recorded already; returns whether it was not.

    Args:
        storage: the queue.
        trial_id: Optuna's number of the attempt.
        status: how it ended.
        error: why; for people.
        values: the objectives of a cell that is done.
        lost: attempts at the cell whose process died.
    """
    try:
        storage.set_trial_user_attr(trial_id, STATUS, status.value)
        if error is not None:
            storage.set_trial_user_attr(trial_id, ERROR, error[:2000])
        if lost:
            storage.set_trial_user_attr(trial_id, ATTEMPTS_LOST, lost)
        storage.set_trial_state_values(trial_id, TRIAL_STATE.get(status, TrialState.FAIL), values)
    except UpdateFinishedTrialError:
        # An earlier worker that was paused: the one that took over the cell has recorded how it ended.
        return False
    return True
