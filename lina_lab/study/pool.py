"""Several workers on one machine: processes of the same command, restarted when they die."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lina_lab.config import CommandConfig
from lina_lab.launch.machine import gpus
from lina_lab.records.result import Progress
from lina_lab.records.status import CellStatus
from lina_lab.study.cells import CellState, open_cells
from lina_lab.study.code import check_code
from lina_lab.study.display import PlainDisplay
from lina_lab.study.grid import Cell
from lina_lab.study.lease import read_heartbeat
from lina_lab.study.restore import restore
from lina_lab.study.rounds import grows, notes
from lina_lab.study.store import Store
from lina_lab.study.summary import Summary, summarise
from lina_lab.util.errors import StudyError
from lina_lab.util.signals import PARENT, stop_if_asked

LOOK_SECONDS = 1.0
STOP_SECONDS = 60.0
"""How long workers may take to record that they were stopped."""
ASK_AGAIN_SECONDS = 5.0
"""Between two requests to a worker that has not ended."""
MAX_CRASHES = 3
"""Crashes a worker, on average, while no cell ends; after more of them the pool gives up."""
ORDERLY_EXITS = (0, 1, 2)
"""Exit codes of a worker that has ended by itself, see `run.main`."""


def run_pool(
    store: Store, command: CommandConfig, workers: int, arguments: Sequence[str], display: PlainDisplay
) -> Summary:
    """Queue the plan's cells, and work on them with several processes.

    Args:
        store: the cells' states.
        command: what trains.
        workers: how many to start, at most.
        arguments: the command line of a worker.
        display: shows what happens.

    Raises:
        StudyError: the workers crash, or a store stays locked; other errors of the stores come out as they are, for
            `util.errors.explained`.
        KeyboardInterrupt, SystemExit: passed on when all workers have ended.
    """
    store.tell = display.line
    check_code(store, other_code=command.other_code)
    store.enqueue()
    restore(store, display.line)
    states, plan = store.states(), store.plan
    left = len(open_cells(plan, states))
    display.started(left, len(plan.cells))
    if not left:
        return summarise(plan, states, [])
    devices = () if command.launcher == "slurm" else gpus()
    workers = workers if grows(plan) else min(workers, left)
    pool = _Pool(store.folder, workers, arguments, devices, plan.study.resources.threads)
    try:
        pool.start()
        _watch(store, pool, display, states)
    except BaseException:
        pool.stop()
        raise
    finally:
        display.ended()
    return summarise(store.plan, store.states(), [])


def _watch(store: Store, pool: "_Pool", display: PlainDisplay, states: Mapping[str, CellState]) -> None:
    """Show how cells end, until all workers have ended."""
    shown = {cell.config_hash for cell in store.plan.cells}
    shown -= {cell.config_hash for cell in open_cells(store.plan, states)}
    while True:
        stop_if_asked()
        alive = pool.look()
        states = store.states()
        store.growing.adopt(states)
        cells = {cell.config_hash: cell for cell in store.plan.cells}
        still_open = {cell.config_hash for cell in open_cells(store.plan, states)}
        for config_hash in cells.keys() - shown - still_open:
            shown.add(config_hash)
            pool.crashes = 0
            cell, state = cells[config_hash], states[config_hash]
            detail = f"{store.plan.study.objective} {state.values[0]:.4f}" if state.values else str(state.error)
            display.cell_started(cell)
            display.cell_ended(cell, state.status, detail)
        display.grew(len(cells), notes(store.plan))
        display.workers_progress(dict(_running(store, cells, states)))
        if not alive:
            left = len(cells.keys() - shown)
            if left:
                raise StudyError(f"{left} cells are open and no worker is left: see {store.folder}/worker-*.log")
            return
        time.sleep(LOOK_SECONDS)


def _running(
    store: Store, cells: Mapping[str, Cell], states: Mapping[str, CellState]
) -> Iterator[tuple[str, Progress]]:
    """Labels of running cells with their progress."""
    for config_hash, cell in cells.items():
        if config_hash in states and states[config_hash].status is CellStatus.RUNNING:
            beat = read_heartbeat(store.folder / config_hash)
            if beat is not None and beat.progress is not None:
                yield cell.label, beat.progress


class _Pool:
    """Worker processes, each with its share of the devices and its own log."""

    def __init__(
        self, folder: Path, workers: int, command: Sequence[str], devices: Sequence[str], threads: int = 1
    ) -> None:
        self.folder, self.command, self.devices, self.threads = folder, command, devices, threads
        self.workers: list[subprocess.Popen[bytes] | None] = [None] * workers
        self.crashes = 0

    def start(self) -> None:
        for index in range(len(self.workers)):
            self.workers[index] = self._start(index)

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        with (self.folder / f"worker-{index}.log").open("ab") as log:
            return subprocess.Popen(self.command, env=self._environment(index), stdout=log, stderr=log)

    def _environment(self, index: int) -> dict[str, str]:
        count = len(self.workers)
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), PARENT: str(os.getpid())}
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.devices[index::count])
        return environment

    def look(self) -> bool:
        """Restart crashed workers; returns whether any worker still runs.

        Raises:
            StudyError: they crash faster than cells end.
        """
        for index, worker in enumerate(self.workers):
            if worker is None or (code := worker.poll()) is None:
                continue
            self.workers[index] = None
            if code in ORDERLY_EXITS:
                continue
            self.crashes += 1
            if self.crashes > MAX_CRASHES * len(self.workers):
                raise StudyError(f"workers crash (the last with exit code {code}): see {self.folder}/worker-*.log")
            self.workers[index] = self._start(index)
        return any(self.workers)

    def stop(self) -> None:
        """Ask all workers to end, and make sure that they do."""
        end = time.monotonic() + STOP_SECONDS
        while running := [worker for worker in filter(None, self.workers) if worker.poll() is None]:
            late = time.monotonic() > end
            for worker in running:
                # Not SIGINT, which is ignored below a shell that was started in the background. Python drops an
                # exception that is raised while it runs a destructor, so one signal may have no effect.
                worker.send_signal(signal.SIGKILL if late else signal.SIGTERM)
            again = time.monotonic() + ASK_AGAIN_SECONDS
            for worker in running:
                with suppress(subprocess.TimeoutExpired):
                    worker.wait(timeout=max(0.1, again - time.monotonic()))


def worker_command(arguments: Sequence[str]) -> list[str]:
    """The command line of a worker for the same study."""
    # The pool stops its workers at its own limit.
    kept = [a for a in arguments if not a.startswith(("action=", "workers=", "new_version=", "max_minutes="))]
    return [sys.executable, "-m", "lina_lab.run", *kept, "action=work"]
