"""Optuna as the study's queue: which cells are waiting, running, done, failed, diverged or interrupted.

One process works on a study at a time; a lock file that the operating system frees with the process sees to it. So a
trial that is RUNNING when a worker starts was left behind by one that died.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, Trial, TrialState

from lina_lab.study.errors import StudyError
from lina_lab.study.grid import Cell, Plan, flatten

Status = Literal["waiting", "running", "done", "diverged", "failed", "interrupted", "withdrawn"]
QUEUED_AGAIN: tuple[Status, ...] = ("failed", "interrupted", "withdrawn")
CELL, STATUS, ERROR = "cell", "status", "error"
DATABASE_WAIT_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class CellState:
    """What the store says of one cell."""

    identity: str
    status: Status
    error: str | None = None


class Store:
    """The cells' states in Optuna's SQLite file beside the runs.

    Raises:
        StudyError: another process works on the study, the study is there with another configuration, or the file
            is not a store.
    """

    def __init__(self, runs: Path, plan: Plan) -> None:
        self.plan = plan
        self.lock = FileLock(runs / f"{plan.study.name}.lock")
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            name = plan.study.name
            raise StudyError(f"another process is running the study {name}: wait for it or stop it") from None
        try:
            self.study = _open(runs, plan.study.name)
            self._check_same_study()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let other processes at the study."""
        self.lock.release()

    def _check_same_study(self) -> None:
        stored = self.study.user_attrs.get("base")
        if stored is None:
            self.study.set_user_attr("question", self.plan.study.question)
            self.study.set_user_attr("base", self._shared())
            return
        before, now = flatten(stored), flatten(self._shared())
        changes = [
            f"{field} was {before.get(field, 'absent')} and is {now.get(field, 'absent')}"
            for field in sorted(before.keys() | now.keys())
            if before.get(field) != now.get(field)
        ]
        if changes:
            raise StudyError(
                f"the study {self.plan.study.name} was run with another configuration: {'; '.join(changes)}. Its cells "
                "would not be comparable: give this one a name of its own (study.name=...) or another folder "
                "(paths.runs=...)"
            )

    def _shared(self) -> dict[str, Any]:
        """What all cells of the study have in common."""
        study = self.plan.study
        return {**self.plan.base, "study": {"objective": study.objective, "size_axis": study.size_axis}}

    def states(self) -> dict[str, CellState]:
        """The latest state of every cell that the study ever had, by identity."""
        states = (_state(trial) for trial in self.study.get_trials(deepcopy=False))
        return {state.identity: state for state in states}

    def enqueue(self) -> None:
        """Queue each cell of the plan that is not done, diverged or waiting; close what a dead process left running."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)
        states = self.states()
        for cell in self.plan.cells:
            if cell.identity not in states or states[cell.identity].status in QUEUED_AGAIN:
                attributes = {CELL: cell.identity, "seed": cell.config.seed, **cell.axes}
                self.study.enqueue_trial({}, user_attrs=attributes)

    def next(self) -> tuple[Trial, Cell] | None:
        """Take the next waiting cell of the plan; None when there is none."""
        cells = {cell.identity: cell for cell in self.plan.cells}
        # On an empty queue `ask` would make up a trial of its own.
        while self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            trial = self.study.ask()
            cell = cells.get(trial.user_attrs[CELL])
            if cell is not None:
                return trial, cell
            # Queued by an earlier command, with axes that this one does not name.
            self.end(trial, "withdrawn")
        return None

    def end(self, trial: Trial, status: Status, *, value: float | None = None, error: str | None = None) -> None:
        """Say how a cell ended; `value` is the objective of one that is done."""
        trial.set_user_attr(STATUS, status)
        if error is not None:
            trial.set_user_attr(ERROR, error)
        self.study.tell(trial, value, state=TrialState.COMPLETE if status == "done" else TrialState.FAIL)


def _open(runs: Path, name: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{runs / 'optuna.db'}", engine_kwargs={"connect_args": {"timeout": DATABASE_WAIT_SECONDS}}
    )
    # Every trial is enqueued, so the sampler never has a say; the default one would import more.
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(
        study_name=name, storage=storage, sampler=sampler, direction="minimize", load_if_exists=True
    )


def _state(trial: FrozenTrial) -> CellState:
    attributes, identity = trial.user_attrs, trial.user_attrs[CELL]
    if trial.state is TrialState.FAIL and STATUS not in attributes:
        return CellState(identity=identity, status="interrupted", error="the process that ran it died")
    names: dict[TrialState, Status] = {TrialState.WAITING: "waiting", TrialState.RUNNING: "running"}
    status = names.get(trial.state) or attributes[STATUS]
    return CellState(identity=identity, status=status, error=attributes.get(ERROR))
