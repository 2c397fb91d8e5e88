"""Works through a study: claim a cell, have it trained, say how it ended. Any number of these work at once."""

import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import Engine

from lina_lab.config import PathsConfig
from lina_lab.launch.select import Launch, Launcher
from lina_lab.records.files import CANCEL_FILE, ERROR_FILE, PICTURE_FILE
from lina_lab.records.record import Record, begin_attempt, read_record, write_config, write_record
from lina_lab.records.runstore import quiet_logs
from lina_lab.study.backend import make_whole
from lina_lab.study.display import Display
from lina_lab.study.errors import StudyError, explained, explanation
from lina_lab.study.grid import Plan
from lina_lab.study.store import Claim, Status, Store, open_cells
from lina_lab.study.summary import Summary, summarise, table
from lina_lab.study.tracking import SUMMARY_SECONDS, Tracker, patiently
from lina_lab.util.signals import defer_signals

if TYPE_CHECKING:
    from lina_lab.records.result import TrialResult

IDLE_SECONDS = 1.0
"""Between two looks at a store that has nothing to do but what others are at."""
STALE_CHECK_SECONDS = 10.0
"""At least so often, between two cells, a worker looks whether others have died."""
NUMBERS = {
    **{
        name: name
        for name in ("parameters", "trainable_parameters", "images_per_second", "fit_seconds", "peak_memory_mib")
    },
    # MLflow lists metrics by name: behind the losses.
    **{f"wall/{name}": name for name in ("ranks", "step_seconds", "data_seconds", "communication_seconds")},
}
"""Metric of a cell's run -> the field of its result that it is."""
FINAL = ("done", "diverged")
"""States of a record that is a result."""


def run_study(
    plan: Plan,
    paths: PathsConfig,
    launcher: Launcher,
    display: Display,
    *,
    joins: bool = False,
) -> Summary:
    """Work until no cell of the plan is open. A cell that fails is recorded, and the next one goes on.

    Args:
        plan: the cells.
        paths: where results go.
        launcher: makes what trains a cell; called once, and only if a cell is to be trained.
        display: is told what happens.
        joins: take up what is queued; do not queue cells that are new, or failed before.

    Raises:
        StudyError: the environment does not let the study go on (disk, stores).
        KeyboardInterrupt, SystemExit: passed on when the running cell is recorded as interrupted.
    """
    runs = Path(paths.runs).resolve()
    with explained(runs):
        store = Store(runs, plan, paths.storage)
        store.join() if joins else store.enqueue()
        states = store.states()
        left = len(open_cells(plan, states))
        display.started(left, len(plan.cells))
        if not left:
            return summarise(plan, states, [])
        if joins:
            store.longest_first()
        with store.setup():
            tracker = patiently(lambda: make_tracker(plan, paths), display.line, runs)
    with launcher() as launch:
        worker = _Worker(runs, store, tracker, launch, display)
        try:
            worker.work_through()
        except BaseException as error:
            display.ended()
            worker.close_after(error)
            raise
    display.ended()
    with explained(runs):
        return worker.close()


def make_tracker(plan: Plan, paths: PathsConfig) -> Tracker:
    """The study's side of MLflow. Its own store is made here if it is not there: not by two at once (`Store.setup`)."""
    if paths.tracking_uri is not None:
        return Tracker(paths.tracking_uri, None, plan)
    runs = Path(paths.runs).resolve()
    make_whole(runs / "mlflow.db", lambda url: _mlflow_tables(url, runs / "mlartifacts"))
    return Tracker(f"sqlite:///{runs / 'mlflow.db'}", runs / "mlartifacts", plan)


def _mlflow_tables(url: str, artifacts: Path) -> Engine:
    quiet_logs()
    engine: Engine = SqlAlchemyStore(url, str(artifacts)).engine  # type: ignore[no-untyped-call]
    return engine


class _Worker:
    """One process that takes cells from the store. See `run_study`."""

    def __init__(self, runs: Path, store: Store, tracker: Tracker, launch: Launch, display: Display) -> None:
        self.runs, self.store, self.tracker, self.launch, self.display = runs, store, tracker, launch, display
        self.overhead: list[float] = []
        self._summarised = self._reaped = 0.0

    def work_through(self) -> None:
        """Work on cells, or wait for one, while there may be more."""
        while self._work_on_next():
            pass

    def _work_on_next(self) -> bool:
        clock, claim = time.perf_counter(), None
        try:
            with explained(self.runs):
                if time.monotonic() - self._reaped > STALE_CHECK_SECONDS:
                    self._requeue_stale()
                # Ctrl-C comes when it is known which cell this is, so that it is recorded.
                with defer_signals():
                    claim = self.store.claim()
                if claim is None:
                    self._requeue_stale()
                    with defer_signals():
                        claim = self.store.claim()
            if claim is not None:
                self._work(claim, clock)
                return True
        except BaseException as error:
            if claim is None:
                raise
            self._record_fault(claim, error)
            return True
        if self.store.someone_works():
            time.sleep(IDLE_SECONDS)
            return True
        return False

    def _requeue_stale(self) -> None:
        """Give up the cells of the dead; say in MLflow too which have failed because that was so again and again."""
        self._reaped = time.monotonic()
        for state in self.store.requeue_stale():
            run_id = self._patiently(lambda state=state: self.tracker.run_of(state.config_hash))  # type: ignore[misc]
            if run_id is not None:
                self._patiently(lambda: self.tracker.end(run_id, "failed", error=state.error))  # noqa: B023

    def _work(self, claim: Claim, clock: float) -> None:
        """Train one cell and record how it ended."""
        cell, folder = claim.cell, self.store.folder / claim.cell.config_hash
        self.display.cell_started(cell)
        config_file = write_config(folder, cell)
        run_id = self._patiently(lambda: self.tracker.start(cell, config_file))
        kept = read_record(folder, cell.config_hash)
        if kept is not None and kept.status in FINAL and kept.mlflow_run == run_id:
            self._record(claim, folder, kept, clock, note=", found in its folder")
            return
        begin_attempt(folder, run_id)
        self._record(claim, folder, self._train(claim, folder, run_id), clock)

    def _train(self, claim: Claim, folder: Path, run_id: str) -> Record:
        def report(images: int, loss: float) -> None:
            claim.lease.progress(images, loss)
            self.display.cell_progress(images, loss)

        result = self.launch(claim.cell.config, folder, tracking=(self.tracker.uri, run_id), report=report)
        for problem in result.problems:
            self.display.line(f"{claim.cell.label}: {problem}")
        return _record_of(claim, result.status, run_id, result=result)

    def _record(self, claim: Claim, folder: Path, record: Record, clock: float, note: str = "") -> None:
        """First the file, then MLflow, then Optuna: whoever reads "done" there finds the rest."""
        assert record.result is not None
        files = (write_record(folder, record), folder / PICTURE_FILE)
        result, status = record.result, cast(Status, record.status)
        self._patiently(lambda: self.tracker.deliver(record.mlflow_run, folder))
        self._patiently(
            lambda: self.tracker.end(
                record.mlflow_run,
                status,
                metrics={name: result[of] for name, of in NUMBERS.items() if result[of] is not None},
                images_seen=result["images_seen"],
                error=result["error"],
                artifacts=tuple(file for file in files if file.exists()),
            )
        )
        objectives = self.store.plan.study.objectives
        values = [result["metrics"][objective.metric] for objective in objectives] if status == "done" else None
        (folder / CANCEL_FILE).unlink(missing_ok=True)
        self.store.end(claim, status, values=values, error=result["error"])
        seconds = time.perf_counter() - clock
        if not note:
            self.overhead.append(seconds - result["fit_seconds"])
        main = self.store.plan.study.objective
        shown = str(result["error"]) if values is None else f"{main} {values[0]:.4f}"
        speed = f"{result['images_per_second']:,.0f} images/s, {seconds:.1f} s"
        self.display.cell_ended(claim.cell, status, f"{shown}, {speed}{note}")
        self._summarise()

    def _record_fault(self, claim: Claim, error: BaseException) -> None:
        """Record a cell that came to no result. Its own fault lets the next cell go on.

        Raises:
            StudyError: the fault is the environment's, so that the next cell would meet it too.
            BaseException: `error` itself, where it is an interruption.
        """
        stopped = not isinstance(error, Exception)
        environment = str(error) if isinstance(error, StudyError) else explanation(error, self.runs)
        status: Status = "interrupted" if stopped or environment else "failed"
        sentence = "stopped by hand" if stopped else environment or f"{type(error).__name__}: {error}"
        ended = False
        try:
            # A terminal's Ctrl-C comes here directly, and again from the pool.
            with defer_signals():
                ended = self._write_fault(claim, status, sentence, error)
        except Exception as second:
            # What broke the cell keeps the news out too. The next command finds a cell that runs without a process,
            # which says the same.
            error.add_note(f"its state could not be written either: {second}")
        if not ended:
            self.display.cell_ended(claim.cell, status, sentence)
        if environment is not None:
            raise StudyError(environment) from error
        if stopped:
            raise error

    def _write_fault(self, claim: Claim, status: Status, sentence: str, error: BaseException) -> bool:
        """Write it down, and let others at the cell; True if it had ended: Ctrl-C came behind the last word on it."""
        folder = self.store.folder / claim.cell.config_hash
        try:
            if not self.store.states()[claim.cell.config_hash].open:
                return True
            run_id = self.tracker.run_of(claim.cell.config_hash)
            if run_id is not None:
                (folder / ERROR_FILE).write_text("".join(traceback.format_exception(error)))
                self.tracker.end(run_id, status, error=sentence, artifacts=(folder / ERROR_FILE,))
                kept = read_record(folder, claim.cell.config_hash)
                if kept is None or kept.status not in FINAL:
                    write_record(folder, _record_of(claim, status, run_id, error=sentence))
            return False
        finally:
            self.store.end(claim, status, error=sentence)

    def _patiently(self, action: Callable[[], Any]) -> Any:
        return patiently(action, self.display.line, self.runs)

    def _summarise(self) -> None:
        """The study's table so far, now and then. A store that is away misses a table that is not the last one."""
        if time.monotonic() - self._summarised > SUMMARY_SECONDS:
            self._summarised = time.monotonic()
            try:
                self._write_summary()
            except Exception as error:
                self.display.line(f"the study's table was not written: {str(error).splitlines()[0][:200]}")

    def _write_summary(self, *, ended: bool = False) -> Summary:
        states = self.store.states()
        summary = summarise(self.store.plan, states, self.overhead)
        mean = {"overhead_seconds": sum(self.overhead) / len(self.overhead)} if self.overhead else {}
        self.tracker.summarise(summary.counts, mean, table(self.store.plan, states), ended=ended)
        return summary

    def close_after(self, error: BaseException) -> None:
        """Close the study's run when `error` ends the study, as far as the stores still allow."""
        try:
            with defer_signals():
                self._write_summary(ended=True)
        except Exception as second:
            error.add_note(f"the study's run could not be closed: {second}")

    def close(self) -> Summary:
        """Close the study's run and count."""
        summary: Summary = self._patiently(lambda: self._write_summary(ended=True))
        return summary


def _record_of(
    claim: Claim,
    status: str,
    run_id: str,
    *,
    result: "TrialResult | None" = None,
    error: str | None = None,
) -> Record:
    return Record(
        config_hash=claim.cell.config_hash,
        axes=claim.cell.axes,
        seed=claim.cell.config.seed,
        status=status,
        mlflow_run=run_id,
        result=None if result is None else asdict(result),
        error=error if result is None else result.error,
    )
