"""Works through a study: ask for a cell, have it trained, tell how it ended."""

import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import Trial

from lina_lab.config import PathsConfig
from lina_lab.study.errors import StudyError, explained, explanation
from lina_lab.study.grid import Cell, Plan
from lina_lab.study.launch import Launch
from lina_lab.study.progress import Display
from lina_lab.study.record import ERROR_FILE, PICTURE_FILE, Record, read_record, write_config, write_record
from lina_lab.study.store import Status, Store
from lina_lab.study.tracking import Tracker

if TYPE_CHECKING:
    from lina_lab.training.trial import TrialResult


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run of the study command left."""

    counts: dict[str, int]
    """Cells of the plan by state."""
    failures: dict[str, str]
    """Label of each failed cell -> its error."""
    overhead_seconds: list[float] = field(default_factory=list)
    """For each cell trained now: its wall time from ask to tell outside `Trainer.fit`."""


def run_study(plan: Plan, paths: PathsConfig, launcher: Callable[[], Launch], display: Display) -> Summary:
    """Run every cell that is not done yet. A cell that fails is recorded, and the next one goes on.

    Args:
        plan: the cells.
        paths: where results go.
        launcher: makes what trains a cell; called once, and only if a cell is to be trained.
        display: is told what happens.

    Raises:
        StudyError: the environment does not let the study go on (disk, stores, another process).
        KeyboardInterrupt, SystemExit: passed on when the running cell is recorded as interrupted.
    """
    runs = Path(paths.runs).resolve()
    with explained(runs):
        (runs / plan.study.name).mkdir(parents=True, exist_ok=True)
        store = Store(runs, plan)
    try:
        with explained(runs):
            store.enqueue()
            waiting = sum(store.states()[cell.identity].status == "waiting" for cell in plan.cells)
            display.started(waiting, len(plan.cells))
            if not waiting:
                return _summary(store, [])
            uri = paths.tracking_uri or f"sqlite:///{runs / 'mlflow.db'}"
            tracker = Tracker(uri, None if paths.tracking_uri else runs / "mlartifacts", plan)
            tracker.close_dead()
        worker = _Worker(runs, store, tracker, launcher(), display)
        try:
            while (taken := worker.take()) is not None:
                worker.work(*taken)
        except BaseException as error:
            display.ended()
            worker.close_after(error)
            raise
        display.ended()
        with explained(runs):
            return worker.close()
    finally:
        store.close()


class _Worker:
    """One process that takes cells from the store. See `run_study`."""

    def __init__(self, runs: Path, store: Store, tracker: Tracker, launch: Launch, display: Display) -> None:
        self.runs, self.store, self.tracker, self.launch, self.display = runs, store, tracker, launch, display
        self.overhead: list[float] = []
        self.clock = time.perf_counter()

    def take(self) -> tuple[Trial, Cell] | None:
        self.clock = time.perf_counter()
        with explained(self.runs):
            return self.store.next()

    def work(self, trial: Trial, cell: Cell) -> None:
        """Train one cell and record how it ended."""
        self.display.cell_started(cell)
        folder, run_id = self.runs / self.store.plan.study.name / cell.identity, None
        try:
            folder.mkdir(exist_ok=True)
            kept = read_record(folder, cell.identity)
            if kept is not None and kept.status == "done" and self.tracker.has_run(kept.mlflow_run):
                self._adopt(trial, cell, kept)
                return
            for left in (PICTURE_FILE, ERROR_FILE):
                # An earlier attempt's: it must not pass for this one's.
                (folder / left).unlink(missing_ok=True)
            run_id = self.tracker.start(cell, write_config(folder, cell))
            result = self.launch(
                cell.config, folder, tracking=(self.tracker.uri, run_id), report=self.display.cell_progress
            )
            self._record(trial, cell, folder, run_id, result)
        except BaseException as error:
            self._record_fault(trial, cell, folder, run_id, error)

    def _record(self, trial: Trial, cell: Cell, folder: Path, run_id: str, result: "TrialResult") -> None:
        """First the file, then MLflow, then Optuna: whoever reads "done" there finds the rest."""
        record = _record_of(cell, result.status, run_id, result=asdict(result), error=result.error)
        files = (write_record(folder, record), folder / PICTURE_FILE)
        numbers = ("parameters", "trainable_parameters", "images_per_second", "fit_seconds", "peak_memory_mib")
        self.tracker.end(
            run_id,
            result.status,
            metrics={name: getattr(result, name) for name in numbers},
            images_seen=result.images_seen,
            error=result.error,
            artifacts=tuple(file for file in files if file.exists()),
        )
        value = result.metrics[self.store.plan.study.objective] if result.status == "done" else None
        self.store.end(trial, result.status, value=value, error=result.error)
        seconds = time.perf_counter() - self.clock
        self.overhead.append(seconds - result.fit_seconds)
        shown = str(result.error) if value is None else f"{self.store.plan.study.objective} {value:.4f}"
        detail = f"{shown}, {result.images_per_second:,.0f} images/s, {seconds:.1f} s"
        self.display.cell_ended(cell, result.status, detail)

    def _adopt(self, trial: Trial, cell: Cell, kept: Record) -> None:
        """Take over a result that stands in the cell's folder, when Optuna's file was lost."""
        assert kept.result is not None
        self.store.end(trial, "done", value=kept.result["metrics"][self.store.plan.study.objective])
        self.display.cell_ended(cell, "done", "found in its folder")

    def _record_fault(self, trial: Trial, cell: Cell, folder: Path, run_id: str | None, error: BaseException) -> None:
        """Record a cell that came to no result. Its own fault lets the next cell go on.

        Raises:
            StudyError: the fault is the environment's, so that the next cell would meet it too.
            BaseException: `error` itself, where it is an interruption.
        """
        stopped, environment = not isinstance(error, Exception), explanation(error, self.runs)
        status: Status = "interrupted" if stopped else "failed"
        sentence = "stopped by hand" if stopped else environment or f"{type(error).__name__}: {error}"
        try:
            self.store.end(trial, status, error=sentence)
            if run_id is not None:
                (folder / ERROR_FILE).write_text("".join(traceback.format_exception(error)))
                self.tracker.end(run_id, status, error=sentence, artifacts=(folder / ERROR_FILE,))
                write_record(folder, _record_of(cell, status, run_id, error=sentence))
        except Exception as second:
            # What broke the cell keeps the news out too. The next command finds a cell that runs without a process,
            # which says the same.
            error.add_note(f"its state could not be written either: {second}")
        self.display.cell_ended(cell, status, sentence)
        if environment is not None:
            raise StudyError(environment) from error
        if stopped:
            raise error

    def close_after(self, error: BaseException) -> None:
        """Close the study's run when `error` ends the study, as far as the stores still allow."""
        try:
            self.close()
        except Exception as second:
            error.add_note(f"the study's run could not be closed: {second}")

    def close(self) -> Summary:
        """Close the study's run and count."""
        summary = _summary(self.store, self.overhead)
        mean = {"overhead_seconds": sum(self.overhead) / len(self.overhead)} if self.overhead else {}
        self.tracker.close(summary.counts, mean)
        return summary


def _record_of(
    cell: Cell,
    status: str,
    run_id: str,
    *,
    result: dict[str, Any] | None = None,
    error: str | None = None,
) -> Record:
    return Record(
        identity=cell.identity,
        axes=cell.axes,
        seed=cell.config.seed,
        status=status,
        mlflow_run=run_id,
        result=result,
        error=error,
    )


def _summary(store: Store, overhead: list[float]) -> Summary:
    states = store.states()
    mine = [(cell, states[cell.identity]) for cell in store.plan.cells]
    return Summary(
        counts=dict(Counter(state.status for _, state in mine)),
        failures={cell.label: str(state.error) for cell, state in mine if state.status == "failed"},
        overhead_seconds=overhead,
    )
