"""Several workers on one machine: processes of the same command, started again when they die."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lina_lab.config import CommandConfig, PathsConfig
from lina_lab.launch.select import gpus
from lina_lab.study.display import Display
from lina_lab.study.errors import StudyError, explained
from lina_lab.study.grid import Cell, Plan
from lina_lab.study.lease import StaleLeases, read_heartbeat
from lina_lab.study.store import CellState, Store, open_cells
from lina_lab.study.summary import Summary, summarise

LOOK_SECONDS = 1.0
STOP_SECONDS = 60.0
"""How long workers may take to record that they were stopped."""
ASK_AGAIN_SECONDS = 5.0
"""One that has not ended is asked again so often."""
DEATHS_WITHOUT_A_CELL = 3
"""So often each worker may die, on average, while no cell ends; then the pool gives up."""
EXITS_OF_THEIR_OWN = (0, 1, 2)


def run_pool(
    plan: Plan, paths: PathsConfig, command: CommandConfig, arguments: Sequence[str], display: Display
) -> Summary:
    """Queue the plan's cells and have them worked on by several processes.

    Args:
        plan: the cells.
        paths: where results go.
        command: how many workers there are to be, and what trains.
        arguments: the command line of a worker.
        display: is told what happens.

    Raises:
        StudyError: the environment does not let the study go on, or the workers die.
        KeyboardInterrupt, SystemExit: passed on when all workers have ended.
    """
    runs = Path(paths.runs).resolve()
    with explained(runs):
        store = Store(runs, plan, paths.storage)
        store.enqueue()
        states = store.states()
        left = len(open_cells(plan, states))
        display.started(left, len(plan.cells))
    if not left:
        return summarise(plan, states, [])
    devices = () if command.launcher == "slurm" else gpus()
    pool = _Pool(store.folder, min(command.workers, left), arguments, devices, plan.study.resources.devices)
    try:
        pool.start()
        _watch(store, pool, display, states)
    except BaseException:
        pool.stop()
        display.ended()
        raise
    display.ended()
    with explained(runs):
        return summarise(plan, store.states(), [])


def _watch(store: Store, pool: "_Pool", display: Display, states: Mapping[str, CellState]) -> None:
    """Tell how cells end until all workers have ended."""
    cells = {cell.config_hash: cell for cell in store.plan.cells}
    told = cells.keys() - {cell.config_hash for cell in open_cells(store.plan, states)}
    while True:
        alive = pool.look()
        with explained(store.runs):
            states = store.states()
        still = {cell.config_hash for cell in open_cells(store.plan, states)}
        for config_hash in cells.keys() - told - still:
            told.add(config_hash)
            pool.deaths = 0
            display.cell_started(cells[config_hash])
            display.cell_ended(cells[config_hash], states[config_hash].status, _detail(states[config_hash], store))
        if not alive:
            left = len(cells.keys() - told)
            if left:
                raise StudyError(f"{left} cells are open and no worker is left: see {store.folder}/worker-*.log")
            return
        time.sleep(LOOK_SECONDS)


def _detail(state: CellState, store: Store) -> str:
    if state.values:
        return f"{store.plan.study.objective} {state.values[0]:.4f}"
    return str(state.error)


class _Pool:
    """Worker processes, each with its own share of the processors and its own log."""

    def __init__(
        self, folder: Path, workers: int, command: Sequence[str], devices: Sequence[str], ranks: int = 1
    ) -> None:
        self.folder, self.command, self.devices, self.ranks = folder, command, devices, ranks
        self.workers: list[subprocess.Popen[bytes] | None] = [None] * workers
        self.deaths = 0

    def start(self) -> None:
        for place in range(len(self.workers)):
            self.workers[place] = self._start(place)

    def _start(self, place: int) -> subprocess.Popen[bytes]:
        with (self.folder / f"worker-{place}.log").open("ab") as log:
            return subprocess.Popen(self.command, env=self._environment(place), stdout=log, stderr=log)

    def _environment(self, place: int) -> dict[str, str]:
        count = len(self.workers)
        environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // (count * self.ranks))), **os.environ}
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.devices[place::count])
        return environment

    def look(self) -> bool:
        """Start those again that died; whether any is still at work.

        Raises:
            StudyError: they die faster than cells end, or one says that it cannot go on.
        """
        for place, worker in enumerate(self.workers):
            if worker is None or (code := worker.poll()) is None:
                continue
            self.workers[place] = None
            if code in EXITS_OF_THEIR_OWN:
                continue
            self.deaths += 1
            if self.deaths > DEATHS_WITHOUT_A_CELL * len(self.workers):
                raise StudyError(f"workers die (the last with exit code {code}): see {self.folder}/worker-*.log")
            self.workers[place] = self._start(place)
        return any(self.workers)

    def stop(self) -> None:
        """Ask all to end, and see to it that they do."""
        end = time.monotonic() + STOP_SECONDS
        while at_work := [worker for worker in filter(None, self.workers) if worker.poll() is None]:
            late = time.monotonic() > end
            for worker in at_work:
                # Not SIGINT, which is ignored below a shell that was started in the background. Python drops an
                # exception that comes while it runs a destructor: ask until it is heard.
                worker.send_signal(signal.SIGKILL if late else signal.SIGTERM)
            again = time.monotonic() + ASK_AGAIN_SECONDS
            for worker in at_work:
                with suppress(subprocess.TimeoutExpired):
                    worker.wait(timeout=max(0.1, again - time.monotonic()))


def worker_command(arguments: Sequence[str]) -> list[str]:
    """The command line of a worker for the same study."""
    kept = [a for a in arguments if not a.startswith(("action=", "workers=", "new_version="))]
    return [sys.executable, "-m", "lina_lab.run", *kept, "action=work"]


def running_now(store: Store, states: Mapping[str, CellState]) -> list[tuple[Cell, str]]:
    """Cells that somebody works on, and how far they are."""
    found = []
    for cell in store.plan.cells:
        state = states.get(cell.config_hash)
        if state is None or state.status != "running":
            continue
        lease = StaleLeases().take_stale(store.folder / cell.config_hash)
        if lease is not None:
            lease.release()
            found.append((cell, "stale: the process that ran it died"))
            continue
        note = read_heartbeat(store.folder / cell.config_hash)
        total = cell.config.max_steps * cell.config.data.batch_size
        where = "" if note is None else f"{note.images:,} of {total:,} images on {note.host}"
        found.append((cell, where))
    return found
