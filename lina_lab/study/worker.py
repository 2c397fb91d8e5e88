"""Works through a study: claim a cell, train it, record how it ended. Any number of these work at once."""

import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lina_lab.config import to_dict
from lina_lab.config.cautions import cautions
from lina_lab.launch.contract import Launch, Launcher
from lina_lab.records.files import CANCEL_FILE, ERROR_FILE, JOB_FILE, PRUNE_FILE
from lina_lab.records.record import Record, begin_attempt, follow_run, read_record, write_config, write_record
from lina_lab.records.result import Progress
from lina_lab.records.runstore import TrackingRun
from lina_lab.records.status import CELL_STATUS, CellStatus
from lina_lab.study.cells import open_cells, record_of
from lina_lab.study.code import check_code
from lina_lab.study.display import PlainDisplay
from lina_lab.study.note import standing
from lina_lab.study.patience import patiently
from lina_lab.study.pruning import Watch, never_trained
from lina_lab.study.restore import restore
from lina_lab.study.rounds import notes
from lina_lab.study.store import Claim, Store
from lina_lab.study.summary import Summary, summarise
from lina_lab.study.tidying import reduce_finished
from lina_lab.util.errors import StudyError, explanation, first_line
from lina_lab.util.signals import defer_signals, stop_if_asked, stop_or, stop_reason

if TYPE_CHECKING:
    from lina_lab.study.tracking import Tracker

T = TypeVar("T")

IDLE_SECONDS = 1.0
"""Between two looks at a store whose open cells are all in other hands."""
SUMMARY_SECONDS = 5.0
"""Between two writes of the study's table; it is also written at the end."""
STALE_CHECK_SECONDS = 10.0
"""Between two looks for dead workers, while this worker has cells of its own."""


def run_study(
    store: Store,
    launcher: Launcher,
    display: PlainDisplay,
    *,
    joins: bool = False,
    other_code: bool = False,
    after: Callable[[], None] = lambda: None,
) -> Summary:
    """Work until no cell of the plan is open. A cell that fails is recorded, and the next one starts.

    Args:
        store: the cells' states.
        launcher: makes what trains a cell; called once, and only if a cell is to be trained.
        display: shows what happens.
        joins: take what is queued; do not queue cells that are new, or failed before.
        other_code: go on although other code or packages trained the study so far.
        after: called after each cell, and when the work ends in any way.

    Raises:
        RefusedError: other code or packages trained the study so far.
        StudyError: the environment does not let the study continue; other errors of the disk or of the stores come out
            as they are, for `util.errors.explained`.
        KeyboardInterrupt, SystemExit: passed on when the running cell is recorded as interrupted.
    """
    store.tell = display.line
    check_code(store, other_code=other_code)
    if joins:
        store.join()
    else:
        store.enqueue()
        restore(store, display.line)
    states = store.states()
    left = len(open_cells(store.plan, states))
    display.started(left, len(store.plan.cells))
    for sentence in store.plan.cautions() if left and not joins else ():
        display.line(sentence)
    if not left:
        return summarise(store.plan, states, [])
    if joins:
        store.growing.longest_first()
    # Imports MLflow, which takes longer than all before.
    from lina_lab.study.tracking import Tracker

    with store.setup():
        tracker = patiently(partial(Tracker.open, store.workspace), display.line, store.runs)
    patiently(partial(tracker.abandon, store.abandoned), display.line, store.runs)
    with launcher() as launch:
        worker = _Worker(store, tracker, launch, display)
        try:
            while worker.work_on_next():
                after()
        except BaseException as error:
            display.ended()
            worker.close_after(error)
            raise
        finally:
            after()
    display.ended()
    return worker.close()


class _Worker:
    """One process that takes cells from the store. See `run_study`."""

    def __init__(self, store: Store, tracker: "Tracker", launch: Launch, display: PlainDisplay) -> None:
        self.store, self.tracker, self.launch, self.display = store, tracker, launch, display
        self.runs = store.runs
        self.overhead: list[float] = []
        self._summarised = self._checked = 0.0
        self._shown = store.plan

    def work_on_next(self) -> bool:
        """Work on a cell, or wait for one; returns whether there may be more."""
        stop_if_asked()
        clock, claim = time.perf_counter(), None
        try:
            if time.monotonic() - self._checked > STALE_CHECK_SECONDS:
                self._requeue_stale()
            # Ctrl-C waits until the cell is known, so that it is recorded.
            with defer_signals():
                claim = self.store.claim()
            if claim is None:
                self._requeue_stale()
                with defer_signals():
                    claim = self.store.claim()
            if claim is None and self.store.grow():
                with defer_signals():
                    claim = self.store.claim()
            self._show_growth()
            if claim is not None:
                self._work(claim, clock)
                return True
        except BaseException as error:
            if claim is None:
                raise
            self._record_fault(claim, stop_or(error))
            return True
        if self.store.any_open():
            time.sleep(IDLE_SECONDS)
            return True
        return False

    def _show_growth(self) -> None:
        plan = self.store.plan
        if plan is not self._shown:
            self._shown = plan
            self.display.grew(len(plan.cells), notes(plan))

    def _requeue_stale(self) -> None:
        """Requeue the cells of dead workers; record in MLflow those that failed because that happened too often."""
        self._checked = time.monotonic()
        for state in self.store.requeue_stale():
            run_id = self._patiently(partial(self.tracker.run_of, state.config_hash))
            if run_id is not None:
                self._patiently(partial(self.tracker.end, run_id, CellStatus.FAILED, error=state.error))

    def _work(self, claim: Claim, clock: float) -> None:
        """Train one cell and record how it ended."""
        cell, folder = claim.cell, self.store.folder / claim.cell.config_hash
        self.display.cell_started(cell)
        config_file = write_config(folder, to_dict(cell.config))
        kept = read_record(folder, cell.config_hash)
        kept = kept if kept is not None and kept.status.final else never_trained(self.store.plan, cell)
        run_id = self._patiently(partial(self.tracker.start, cell, config_file, kept))
        if kept is not None:
            follow_run(folder, run_id, anew=True)
            note = ", found in its folder" if kept.mlflow_run else ", not trained"
            self._record(claim, folder, replace(kept, mlflow_run=run_id), clock, note=note)
            return
        begin_attempt(folder, run_id)
        # To a run that is new because the store lost the one before: the curve up to the checkpoint.
        self._patiently(partial(self.tracker.deliver, run_id, folder))
        self._record(claim, folder, self._train(claim, folder, run_id), clock)

    def _train(self, claim: Claim, folder: Path, run_id: str) -> Record:
        watch = Watch(self.store, claim, self.display.line)

        def report(progress: Progress) -> None:
            stop_if_asked()
            claim.lease.progress(progress)
            self.display.cell_progress(progress)
            watch.follow(progress)

        tracking = TrackingRun(uri=self.tracker.uri, run_id=run_id)
        again = claim.cell.again
        other = {"resources": replace(self.store.plan.study.resources, **again)} if again else {}
        result = watch.ended(self.launch(claim.cell.config, folder, tracking=tracking, report=report, **other))
        if result.origin is not None:
            self.display.line(f"{claim.cell.label}: {result.origin}")
        # Cautions were said at the start, for all cells.
        for problem in (p for p in result.problems if p not in cautions(claim.cell.config)):
            self.display.line(f"{claim.cell.label}: {problem}")
        return replace(
            record_of(claim.cell, CELL_STATUS[result.status], run_id, result.error, result), source=self.tracker.source
        )

    def _record(self, claim: Claim, folder: Path, record: Record, clock: float, note: str = "") -> None:
        """Write the file first, then MLflow, then Optuna: a reader of "done" in Optuna finds the rest."""
        assert record.result is not None
        result, status = record.result, record.status
        write_record(folder, record)
        self._patiently(partial(self.tracker.record, record, folder))
        objectives = self.store.plan.study.objectives
        done = status is CellStatus.DONE
        # Before others know that they can start from it.
        if done and (problem := reduce_finished(folder, claim.cell.config)) is not None:
            self.display.line(f"{claim.cell.label}: {problem}")
        values = [result.metrics[objective.metric] for objective in objectives] if done else None
        for name in (CANCEL_FILE, PRUNE_FILE, JOB_FILE):
            (folder / name).unlink(missing_ok=True)
        self.store.end(claim, status, values=values, error=result.error)
        seconds = time.perf_counter() - clock
        self.overhead += [] if note else [seconds - result.fit_seconds]
        shown = str(result.error) if values is None else f"{objectives[0].metric} {values[0]:.4f}"
        speed = f"{result.images_per_second:,.0f} images/s, {seconds:.1f} s"
        self.display.cell_ended(claim.cell, status, f"{shown}, {speed}{note}")
        self._summarise()

    def _record_fault(self, claim: Claim, error: BaseException) -> None:
        """Record a cell without a result. If the fault is its own, the next cell starts.

        Raises:
            StudyError: the fault is the environment's, so that the next cell would meet it too.
            BaseException: `error` itself, where it is an interruption.
        """
        stopped = not isinstance(error, Exception)
        environment = str(error) if isinstance(error, StudyError) else explanation(error, self.runs)
        status = CellStatus.INTERRUPTED if stopped or environment else CellStatus.FAILED
        sentence = stop_reason(error) if stopped else environment or f"{type(error).__name__}: {error}"
        ended = False
        try:
            # A terminal sends Ctrl-C to this process and to the pool, which then sends SIGTERM.
            with defer_signals():
                ended = self._write_fault(claim, status, sentence, error)
        except Exception as second:
            # What broke the cell breaks this too. The next command finds a cell that runs without a process, which
            # means the same.
            error.add_note(f"its state could not be written either: {second}")
        if not ended:
            self.display.cell_ended(claim.cell, status, sentence)
        if environment is not None:
            raise StudyError(environment) from error
        if stopped:
            raise error

    def _write_fault(self, claim: Claim, status: CellStatus, sentence: str, error: BaseException) -> bool:
        """Record a fault and free the cell; True if the cell had ended already: Ctrl-C came after its last record."""
        folder = self.store.folder / claim.cell.config_hash
        try:
            if not self.store.states()[claim.cell.config_hash].status.open:
                return True
            run_id = self.tracker.run_of(claim.cell.config_hash)
            if run_id is not None:
                (folder / ERROR_FILE).write_text("".join(traceback.format_exception(error)))
                self.tracker.end(run_id, status, error=sentence, artifacts=(folder / ERROR_FILE,))
                kept = read_record(folder, claim.cell.config_hash)
                if kept is None or not kept.status.final:
                    write_record(folder, record_of(claim.cell, status, run_id, sentence))
            return False
        finally:
            self.store.end(claim, status, error=sentence)

    def _patiently(self, action: Callable[[], T]) -> T:
        return patiently(action, self.display.line, self.runs)

    def _summarise(self) -> None:
        """Write the study's table so far, now and then. Where the store does not answer, the next table will do."""
        if time.monotonic() - self._summarised > SUMMARY_SECONDS:
            self._summarised = time.monotonic()
            try:
                self._write_summary()
            except Exception as error:
                self.display.line(f"the study's table was not written: {first_line(error)}")

    def _write_summary(self, *, ended: bool = False) -> Summary:
        plan, states = self.store.plan, self.store.states()
        summary = summarise(plan, states, self.overhead)
        mean = {"overhead_seconds": sum(self.overhead) / len(self.overhead)} if self.overhead else {}
        self.tracker.summarise(standing(plan, states, summary), mean, plan.tuned, ended=ended)
        return summary

    def close_after(self, error: BaseException) -> None:
        """Close the study's run when `error` ends the study, as far as the stores still allow."""
        try:
            with defer_signals():
                self._write_summary(ended=True)
        except Exception as second:
            error.add_note(f"the study's run could not be closed: {second}")

    def close(self) -> Summary:
        """Close the study's run, and count its cells."""
        return self._patiently(partial(self._write_summary, ended=True))
