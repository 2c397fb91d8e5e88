"""Optuna as the study's queue: which cells are waiting, running, done, failed, diverged, interrupted or cancelled.

Any number of workers share it. An attempt at a cell is a trial. Who works on a cell holds its lease (`lease.py`), from
before the trial is taken until after it has ended: so a trial that runs while nobody holds the lease was left behind by
a process that died, and a cell is never worked on twice at once.
"""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from lina_lab.config import current_names, to_dict
from lina_lab.records.files import CANCEL_FILE
from lina_lab.study.backend import TrialRow, open_storage, trial_rows
from lina_lab.study.errors import ChangedError, StudyError
from lina_lab.study.grid import Cell, Plan
from lina_lab.study.lease import Lease, StaleLeases
from lina_lab.util.files import write_atomically
from lina_lab.util.nested import flatten
from lina_lab.util.signals import defer_signals

Status = Literal["waiting", "running", "done", "diverged", "failed", "interrupted", "cancelled"]
TRIED_AGAIN: tuple[Status, ...] = ("failed", "cancelled")
"""States that a new command starts again from."""
CELL, STATUS, ERROR, ATTEMPTS_LOST = "cell", "status", "error", "deaths"
MAX_ATTEMPTS_LOST = 3
"""So often may the process of a cell die; then the cell has failed."""
SETUP_WAIT_SECONDS = 300
FOLDER_FILE = "folder.id"
"""What a storage elsewhere knows the study's folder by."""


@dataclass(frozen=True, kw_only=True)
class CellState:
    """What the store says of one cell."""

    config_hash: str
    status: Status
    trial_id: int
    error: str | None = None
    deaths: int = 0
    values: list[float] | None = None
    """The objectives of a cell that is done."""

    @property
    def open(self) -> bool:
        """Whether a worker may still change it."""
        return self.status in ("waiting", "running", "interrupted")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A cell to work on, and the right to do so."""

    cell: Cell
    trial_id: int
    lease: Lease


class Store:
    """The cells' states.

    Args:
        runs: folder of all results.
        plan: the cells.
        url: Optuna's storage; None: a SQLite file in `runs`.

    Raises:
        ChangedError: the study is there with another configuration.
        StudyError: the storage cannot be opened.
    """

    def __init__(self, runs: Path, plan: Plan, url: str | None = None) -> None:
        self.runs, self.plan = runs, plan
        self.folder = runs / plan.study.name
        self._watch = StaleLeases()
        self._known: dict[str, CellState] = {}
        self._passed: set[str] = set()
        self._cells = {cell.config_hash: cell for cell in plan.cells}
        self._order = list(self._cells)
        with self.setup():
            storage = open_storage(url, runs)
            # Every trial is enqueued, so the sampler never has a say; the default one would import more.
            sampler = optuna.samplers.RandomSampler(seed=0)
            self.study = optuna.create_study(
                study_name=plan.study.name,
                storage=storage,
                sampler=sampler,
                directions=[objective.direction for objective in plan.study.objectives],
                load_if_exists=True,
            )
            self._check_same_study()
            if url is not None:
                self._check_same_folder()
        self._storage = self.study._storage

    @contextmanager
    def setup(self) -> Iterator[None]:
        """One process at a time, for what cannot be done by two: making tables, studies, experiments and trials.

        Raises:
            StudyError: somebody has been at it for minutes.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.runs / "setup.lock")
        try:
            lock.acquire(timeout=SETUP_WAIT_SECONDS)
        except Timeout:
            raise StudyError(f"another process has held {lock.lock_file} for minutes: stop it") from None
        try:
            yield
        finally:
            lock.release()

    def _check_same_study(self) -> None:
        stored = self.study.user_attrs.get("base")
        if stored is None:
            self.study.set_user_attr("question", self.plan.study.question)
            self.study.set_user_attr("base", self._shared())
            return
        before, now = flatten(current_names(stored)), flatten(self._shared())
        changes = [
            f"{field} was {before.get(field, 'absent')} and is {now.get(field, 'absent')}"
            for field in sorted(before.keys() | now.keys())
            if before.get(field) != now.get(field)
        ]
        if changes:
            raise ChangedError(
                f"the study {self.plan.study.name} was run with another configuration: {'; '.join(changes)}. Its cells "
                "would not be comparable: make this one a new version (new_version=true), or give it a name of its own "
                "(study.name=...) or another folder (paths.runs=...)"
            )

    def _check_same_folder(self) -> None:
        """Refuse to work elsewhere than the others: leases, checkpoints and results lie in the folder of runs."""
        path, known = self.folder / FOLDER_FILE, self.study.user_attrs.get("folder")
        here = path.read_text().strip() if path.exists() else None
        if known is None:
            here = here or uuid.uuid4().hex
            write_atomically(path, here + "\n")
            self.study.set_user_attr("folder", here)
        elif here != known:
            raise StudyError(
                f"{self.folder} is not the folder that the study {self.plan.study.name} runs in: all machines that "
                "work on it must see one folder (paths.runs), on a file system that they share; to begin anew, give "
                "the study a name of its own (study.name=...) or another storage"
            )

    def _shared(self) -> dict[str, Any]:
        """What all cells of the study have in common."""
        study = to_dict(self.plan.study)
        metrics = [objective["metric"] for objective in study["objectives"]]
        return {
            **self.plan.base,
            "study": {"objectives": metrics, "size_axis": study["size_axis"], "budget": study["budget"]},
        }

    @defer_signals()
    def states(self) -> dict[str, CellState]:
        """The latest state of every cell that the study ever had, by config_hash."""
        rows = trial_rows(self.study, (CELL, STATUS, ERROR, ATTEMPTS_LOST))
        return {state.config_hash: state for state in map(_state, rows) if state is not None}

    def enqueue(self, only: list[str] | None = None) -> None:
        """Queue each cell of the plan, or of `only`, that is new, or failed or cancelled before."""
        with self.setup():
            states = self.states()
            fresh = [
                cell
                for cell in self.plan.cells
                if (only is None or cell.config_hash in only)
                and (cell.config_hash not in states or states[cell.config_hash].status in TRIED_AGAIN)
            ]
            for cell in fresh:
                (self.folder / cell.config_hash / CANCEL_FILE).unlink(missing_ok=True)
            self.study.add_trials([_waiting(cell) for cell in fresh])
        self.join()

    def join(self) -> None:
        """Look at what there is to do, without queueing anything."""
        self._known, self._passed = self.states(), set()

    def longest_first(self) -> None:
        """Take the costliest cells first from now on: several workers are then done sooner."""
        from lina_lab.study.cost import training_flops

        self._order.sort(key=lambda config_hash: -training_flops(self._cells[config_hash].config))

    @defer_signals()
    def claim(self) -> Claim | None:
        """The first cell of the plan that waits and that nobody has, now this process' own; None if there is none."""
        claimed = self._claim_known()
        if claimed is not None:
            return claimed
        self.join()
        return self._claim_known()

    def _claim_known(self) -> Claim | None:
        for config_hash in self._order:
            cell, known = self._cells[config_hash], self._known.get(config_hash)
            if known is None or known.status not in ("waiting", "interrupted") or config_hash in self._passed:
                continue
            # Whatever comes of it: no use in trying this one again before the next look at the store.
            self._passed.add(config_hash)
            lease = Lease.take(self.folder / config_hash)
            if lease is None:
                continue
            try:
                # Before the trial runs: one that runs without a note is a dead process'.
                lease.beat()
                trial_id = self._start(cell, known)
            except BaseException:
                lease.release()
                raise
            if trial_id is not None:
                self._known[config_hash] = CellState(config_hash=config_hash, status="running", trial_id=trial_id)
                return Claim(cell=cell, trial_id=trial_id, lease=lease)
            lease.release()
        return None

    def _start(self, cell: Cell, known: CellState) -> int | None:
        """Make the waiting trial a running one, with the lease in hand; None if it waits no longer."""
        trial_id = known.trial_id
        if known.status == "interrupted":
            latest = self.states()[cell.config_hash]
            if latest != known:
                return None
            trial_id = self._storage.create_new_trial(self.study._study_id, _waiting(cell, known.deaths))
        try:
            return trial_id if self._storage.set_trial_state_values(trial_id, TrialState.RUNNING) else None
        except UpdateFinishedTrialError:
            return None

    @defer_signals()
    def requeue_stale(self) -> list[CellState]:
        """Say of each cell that runs and whose process is dead that it was interrupted, or has failed for good.

        Returns those that have failed.
        """
        self.join()
        failed = []
        for config_hash, state in list(self._known.items()):
            if state.status != "running" or config_hash not in self._cells:
                continue
            lease = self._watch.take_stale(self.folder / config_hash)
            if lease is None:
                continue
            deaths = state.deaths + 1
            often = deaths >= MAX_ATTEMPTS_LOST
            error = "the process that ran it died" + (f", {deaths} times in all" if often else "")
            self._storage_end(state.trial_id, "failed" if often else "interrupted", error=error, deaths=deaths)
            lease.release()
            self.join()
            if often and self._known[config_hash].trial_id == state.trial_id:
                failed.append(self._known[config_hash])
        return failed

    def someone_works(self) -> bool:
        """Whether a cell that is queued has not come to an end, be it in other hands."""
        return any(state.open for config_hash, state in self._known.items() if config_hash in self._cells)

    @defer_signals()
    def end(self, claim: Claim, status: Status, *, values: list[float] | None = None, error: str | None = None) -> None:
        """Say how an attempt ended, and let others at the cell; `values` are the objectives of one that is done."""
        try:
            self._storage_end(claim.trial_id, status, values=values, error=error)
        finally:
            self._known.pop(claim.cell.config_hash, None)
            claim.lease.release()

    def _storage_end(
        self,
        trial_id: int,
        status: Status,
        *,
        values: list[float] | None = None,
        error: str | None = None,
        deaths: int | None = None,
    ) -> None:
        try:
            self._storage.set_trial_user_attr(trial_id, STATUS, status)
            if error is not None:
                self._storage.set_trial_user_attr(trial_id, ERROR, error[:2000])
            if deaths is not None:
                self._storage.set_trial_user_attr(trial_id, ATTEMPTS_LOST, deaths)
            state = TrialState.COMPLETE if status == "done" else TrialState.FAIL
            self._storage.set_trial_state_values(trial_id, state, values)
        except UpdateFinishedTrialError:
            # A worker of before, paused and back: whoever took the cell over has said how it ended.
            pass

    def cancel(self, config_hashes: list[str]) -> None:
        """Cancel cells that wait, and tell those who work on the others to stop."""
        states = self.states()
        for config_hash in config_hashes:
            state = states[config_hash]
            lease = None if state.status == "running" else Lease.take(self.folder / config_hash)
            if lease is None:
                (self.folder / config_hash / CANCEL_FILE).touch()
                continue
            trial_id = state.trial_id
            if state.status == "interrupted":
                trial_id = self._storage.create_new_trial(self.study._study_id, _waiting(self._cells[config_hash]))
            self._storage_end(trial_id, "cancelled", error="cancelled")
            lease.release()


def open_cells(plan: Plan, states: Mapping[str, CellState]) -> list[Cell]:
    """The plan's cells that have not come to an end; one that the store does not know is new."""
    return [cell for cell in plan.cells if cell.config_hash not in states or states[cell.config_hash].open]


def _waiting(cell: Cell, deaths: int = 0) -> FrozenTrial:
    attributes = {CELL: cell.config_hash, "seed": cell.config.seed, **cell.axes}
    return create_trial(state=TrialState.WAITING, user_attrs=attributes | ({ATTEMPTS_LOST: deaths} if deaths else {}))


def _state(trial: TrialRow) -> CellState | None:
    """None for a trial that is no cell's: somebody else's tool asked the study for one."""
    attributes = trial.attributes
    if CELL not in attributes:
        return None
    if trial.state in (TrialState.WAITING, TrialState.RUNNING):
        status: Status = "waiting" if trial.state is TrialState.WAITING else "running"
    else:
        # Without a status it was ended by another tool.
        status = attributes.get(STATUS, "done" if trial.state is TrialState.COMPLETE else "interrupted")
    return CellState(
        config_hash=attributes[CELL],
        status=status,
        trial_id=trial.trial_id,
        error=attributes.get(ERROR),
        deaths=attributes.get(ATTEMPTS_LOST, 0),
        values=trial.values,
    )
