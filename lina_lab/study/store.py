"""Optuna as the study's queue: which cells are waiting, running, done, failed, diverged, interrupted or cancelled.

Any number of workers share it. An attempt at a cell is one of Optuna's trials. A worker holds the lease of its cell
(`lease.py`) from before the trial starts until after it has ended. So a running trial without a lease is that of a dead
process, and no cell is worked on twice at once.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from lina_lab.records.files import CANCEL_FILE
from lina_lab.records.status import CellStatus
from lina_lab.study.backend import open_storage
from lina_lab.study.cells import (
    ATTEMPTS_LOST,
    CELL,
    ERROR,
    STATUS,
    CellState,
    end_trial,
    queued,
    queued_again,
    state_of,
)
from lina_lab.study.compared import check_compared, keep_compared
from lina_lab.study.contest import given_up
from lina_lab.study.correction import ABANDONED, begun_or_corrected, open_study
from lina_lab.study.grid import Begun, Cell, Plan
from lina_lab.study.growing import GrowingPlan
from lina_lab.study.identity import check_folder
from lina_lab.study.lease import Lease, StaleLeases
from lina_lab.study.lineage import ready, unusable
from lina_lab.study.parameters import add_cells
from lina_lab.study.patience import patient
from lina_lab.study.stored import RETRIED, note_definition, setup_lock
from lina_lab.study.workspace import Workspace
from lina_lab.util.compat.optuna import name_metrics, storage_of, trial_rows
from lina_lab.util.signals import defer_signals

CLAIMABLE = (CellStatus.WAITING, CellStatus.INTERRUPTED)
MAX_ATTEMPTS_LOST = 3
"""Attempts at a cell whose process may die; then the cell has failed."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A cell to work on, and the right to do so."""

    cell: Cell
    trial_id: int
    lease: Lease


class Store:
    """The cells' states.

    Args:
        workspace: the cells, and where the storage is.
        corrects: begin the study again where it has another configuration and nothing is trained. `corrected` then
            says so.

    Raises:
        ChangedError: the study exists with another configuration, or has compared at other tuned values.
        StudyError: the storage cannot be opened.
    """

    def __init__(self, workspace: Workspace, *, corrects: bool = False) -> None:
        self.runs, self.folder = workspace.runs, workspace.folder
        self.tell: Callable[[str], None] = partial(print, file=sys.stderr)
        """Called with a line when the queue is waited for."""
        self.ended: Callable[[Cell, CellStatus, str | None, Sequence[float] | None], None] = lambda *_: None
        """Called when this process has recorded how an attempt ended, with its error and the objectives."""
        self._stale = StaleLeases()
        self._known: dict[str, CellState] = {}
        self._passed: set[str] = set()
        self.study, begun, self.corrected = self._open(workspace, corrects=corrects)
        self.workspace = replace(workspace, plan=workspace.plan.as_begun(begun))
        self.growing = GrowingPlan(self.workspace.plan, self.folder)
        """The plan as the states that were read last let it grow."""
        self._storage = storage_of(self.study)
        self.growing.adopt(self.states() if self.growing.grows else {})
        check_compared(self.folder, self.plan)

    @patient
    def _open(self, workspace: Workspace, *, corrects: bool) -> tuple[optuna.Study, Begun, str]:
        """Open the study, or make it; see `begun_or_corrected`."""
        with self.setup():
            self.study = open_study(workspace.plan, open_storage(workspace.storage, self.runs))
            states = list(self.states().values())
            opened = begun_or_corrected(self.study, workspace.plan, self.folder, states, corrects=corrects)
            name_metrics(opened[0], [objective.metric for objective in workspace.plan.study.objectives])
            if workspace.storage is not None:
                check_folder(opened[0], self.folder)
        return opened

    @property
    def plan(self) -> Plan:
        """The plan with the cells that follow from the results so far."""
        return self.growing.plan

    @property
    def abandoned(self) -> list[str]:
        """Hashes of cells of a configuration that was corrected before anything was trained."""
        found, known = self.study.user_attrs.get(ABANDONED, []), self.states()
        return [config_hash for config_hash in found if config_hash not in known]

    @contextmanager
    def setup(self) -> Iterator[None]:
        """Let one process at a time make tables, studies, experiments and trials.

        Raises:
            StudyError: another process does not end it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with setup_lock(self.runs):
            yield

    @patient
    @defer_signals()
    def states(self) -> dict[str, CellState]:
        """The latest state of every cell that the study ever had, by config hash."""
        rows = trial_rows(self.study, (CELL, STATUS, ERROR, ATTEMPTS_LOST))
        return {state.config_hash: state for state in map(state_of, rows) if state is not None}

    @patient
    def enqueue(self) -> None:
        """Queue each cell of the plan that is new, or failed or cancelled before."""
        with self.setup():
            states = self.states()
            self.growing.adopt(states)
            self._add(
                cell
                for cell in self.plan.cells
                if cell.config_hash not in states or states[cell.config_hash].status in RETRIED
            )
        self.join()

    @patient
    def requeue(self, config_hashes: list[str]) -> None:
        """Queue cells again whose results are lost."""
        with self.setup():
            states = self.states()
            self._add(self.growing.cells[name] for name in config_hashes if not states[name].status.open)
        self.join()

    def _add(self, cells: Iterable[Cell]) -> None:
        """Queue cells, while no other process does."""
        fresh = list(cells)
        for cell in fresh:
            (self.folder / cell.config_hash / CANCEL_FILE).unlink(missing_ok=True)
        keep_compared(self.folder, self.plan)
        note_definition(self.study, self.plan)
        add_cells(self.study, self.plan.study, [queued(cell) for cell in fresh])

    @patient
    @defer_signals()
    def grow(self) -> bool:
        """Queue the cells that follow from results, unless another process has; returns whether any were missing.

        It does not matter which process does this, or how often, or whether one dies in between.
        """
        if not self.growing.grows or not self.growing.missing(self._known):
            return False
        with self.setup():
            self.join()
            self._add(self.growing.missing(self._known))
        self.join()
        return True

    def join(self) -> None:
        """Read the states of the cells, without queueing any."""
        self._known, self._passed = self.states(), set()
        self.growing.adopt(self._known)

    @patient
    @defer_signals()
    def claim(self) -> Claim | None:
        """Claim the first cell of the plan that waits and is free; None: there is none."""
        claimed = self._claim_known()
        if claimed is not None:
            return claimed
        self.join()
        self._refuse_unusable()
        return self._claim_known()

    def _refuse_unusable(self) -> None:
        """End each waiting cell as failed whose source has ended without weights to start from."""
        if self.plan.study.stages is None:
            return
        for config_hash, sentence in unusable(self.growing.cells.values(), self._known).items():
            known, lease = self._known[config_hash], Lease.take(self.folder / config_hash)
            if lease is None:
                continue
            try:
                if self.states()[config_hash] == known:
                    cell = self.growing.cells[config_hash]
                    self._end_trial(cell, known.trial_id, CellStatus.FAILED, sentence)
                    self.tell(f"{cell.label}: {sentence}")
            finally:
                lease.release()
        self._known = self.states()

    def _claim_known(self) -> Claim | None:
        for config_hash in self.growing.order:
            cell, known = self.growing.cells[config_hash], self._known.get(config_hash)
            if known is None or known.status not in CLAIMABLE or config_hash in self._passed:
                continue
            if not ready(cell, self._known) and given_up(self.plan, cell) is None:
                continue
            # Whatever happens: this one need not be tried again before the next look at the store.
            self._passed.add(config_hash)
            lease = Lease.take(self.folder / config_hash)
            if lease is None:
                continue
            try:
                # Before the trial runs: a running trial without a heartbeat is that of a dead process.
                lease.beat()
                trial_id = self._start(cell, known)
            except BaseException:
                lease.release()
                raise
            if trial_id is not None:
                running = CellState(config_hash=config_hash, status=CellStatus.RUNNING, trial_id=trial_id)
                self._known[config_hash] = running
                return Claim(cell=cell, trial_id=trial_id, lease=lease)
            lease.release()
        return None

    def _start(self, cell: Cell, known: CellState) -> int | None:
        """Make the waiting trial a running one, while the lease is held; None if it no longer waits."""
        trial_id = known.trial_id
        if known.status is CellStatus.INTERRUPTED:
            latest = self.states()[cell.config_hash]
            if latest != known:
                return None
            again = queued_again(queued(cell), known.attempts_lost)
            (trial_id,) = add_cells(self.study, self.plan.study, [again])
        try:
            return trial_id if self._storage.set_trial_state_values(trial_id, TrialState.RUNNING) else None
        except UpdateFinishedTrialError:
            return None

    @patient
    @defer_signals()
    def requeue_stale(self) -> list[CellState]:
        """Mark each running cell whose process is dead as interrupted, or as failed if that happened too often.

        Returns those that have failed.
        """
        self.join()
        failed = []
        for config_hash, state in list(self._known.items()):
            if state.status is not CellStatus.RUNNING or config_hash not in self.growing.cells:
                continue
            lease = self._stale.acquire(self.folder / config_hash)
            if lease is None:
                continue
            lost = state.attempts_lost + 1
            often = lost >= MAX_ATTEMPTS_LOST
            error = "the process that ran it died" + (f", {lost} times in all" if often else "")
            status = CellStatus.FAILED if often else CellStatus.INTERRUPTED
            self._end_trial(self.growing.cells[config_hash], state.trial_id, status, error, lost=lost)
            lease.release()
            self.join()
            if often and self._known[config_hash].trial_id == state.trial_id:
                failed.append(self._known[config_hash])
        return failed

    def any_open(self) -> bool:
        """Whether a queued cell has not ended, this worker's or another's, or one is to be queued."""
        queued = any(
            state.status.open for config_hash, state in self._known.items() if config_hash in self.growing.cells
        )
        return queued or bool(self.growing.missing(self._known))

    @defer_signals()
    def end(
        self, claim: Claim, status: CellStatus, *, values: list[float] | None = None, error: str | None = None
    ) -> None:
        """Record how an attempt ended, and free the cell; `values` are the objectives of one that is done."""
        try:
            self._end_trial(claim.cell, claim.trial_id, status, error, values=values)
        finally:
            self._known.pop(claim.cell.config_hash, None)
            claim.lease.release()

    @patient
    def _end_trial(self, /, cell: Cell, trial_id: int, status: CellStatus, error: str | None, **how: Any) -> None:
        if end_trial(self._storage, trial_id, status, error, **how):
            self.ended(cell, status, error, how.get("values"))
