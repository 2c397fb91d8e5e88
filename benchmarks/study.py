"""Cost of the study layer itself: `python benchmarks/study.py [cells=1000] [storage=URL]`.

Cells that train nothing go through queue, tracking and records; then many are planned, and their states read.
"""

import sys
import tempfile
import time
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

from pydantic.dataclasses import dataclass
from rich.console import Console

from lina_lab.config import CHECKS, PathsConfig, StudyConfig, TrialConfig, from_dict, to_dict
from lina_lab.config.checks import PositiveInt
from lina_lab.config.grammar import Command
from lina_lab.records.result import TrialResult
from lina_lab.records.status import CellStatus, TrialStatus
from lina_lab.study.display import PlainDisplay
from lina_lab.study.grid import Cell, Plan, make_plan
from lina_lab.study.store import Store
from lina_lab.study.worker import run_study
from lina_lab.study.workspace import Workspace
from lina_lab.training.memory import peak_memory_mib


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class StudyBenchConfig:
    """What the command takes."""

    cells: PositiveInt = 1000
    """Cells that go through the whole layer."""
    planned: PositiveInt = 10_000
    """Cells that are planned, and whose states are read."""
    storage: str | None = None
    """Optuna's storage; null: a SQLite file."""


def plan_of(cells: int, name: str) -> Plan:
    """A study of so many cells."""
    study = {
        "name": name,
        "question": "What does the study layer cost?",
        "axes": {"rate": {"optimizer.lr": [1e-4 * (1 + i) for i in range(max(1, cells // 10))]}},
        "size_axis": "rate",
        "seeds": list(range(10)),
    }
    model = {"latent_channels": 1, "latent_size": [8, 8], "num_classes": 10, "dim": 16, "num_heads": 2, "depth": 2}
    return make_plan(from_dict(StudyConfig, study), to_dict(from_dict(TrialConfig, {"model": model})))


def workspace_of(cells: int, storage: str | None, runs: Path) -> Workspace:
    """A new study of so many cells, and where its results go."""
    return Workspace.of(plan_of(cells, f"bench_{time.time_ns()}"), PathsConfig(runs=str(runs), storage=storage))


class _Quiet(PlainDisplay):
    """Shows nothing, and keeps the process' peak memory at each hundredth cell."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.memory: list[float] = []

    def cell_ended(self, cell: Cell, status: CellStatus, detail: str) -> None:
        if self.number % 100 == 0:
            self.memory.append(peak_memory_mib())


def measure_worker(cells: int, storage: str | None, runs: Path) -> str:
    """Time a cell and growth of memory, with a trainer that returns at once."""
    metrics = {"val/loss_ema": 0.5, "val/loss_raw": 0.6, "train/loss": 0.7}
    numbers = {"images_seen": 64, "steps": 4, "parameters": 10, "trainable_parameters": 8}
    zero = {"images_per_second": 100.0, "fit_seconds": 0.0, "peak_memory_mib": 1.0}
    result = TrialResult(status=TrialStatus.DONE, metrics=metrics, **numbers, **zero)  # type: ignore[arg-type]
    workspace, display = workspace_of(cells, storage, runs), _Quiet()
    start = time.perf_counter()
    run_study(Store(workspace), lambda: nullcontext(lambda *_, **__: result), display)
    cells = len(workspace.plan.cells)
    each = (time.perf_counter() - start) / cells
    growth = display.memory[-1] - display.memory[0] if len(display.memory) > 1 else 0.0
    return f"whole layer, {cells} cells: {1e3 * each:.1f} ms a cell; memory grew by {growth:.1f} MiB"


def measure_store(cells: int, storage: str | None, runs: Path) -> str:
    """Time a cell of the queue alone: enqueue, claim, end."""
    store = Store(workspace_of(cells, storage, runs))
    marks = [time.perf_counter()]
    store.enqueue()
    marks.append(time.perf_counter())
    claims = 0
    while (claim := store.claim()) is not None:
        store.end(claim, CellStatus.DONE, values=[0.5])
        claims += 1
    marks.append(time.perf_counter())
    enqueue, work = (1e3 * (b - a) / claims for a, b in pairwise(marks))
    return f"store, {claims} cells: {enqueue:.1f} ms a cell to queue, {work:.1f} ms to claim and end"


def measure_plan(cells: int, storage: str | None, runs: Path) -> str:
    """Time to plan many cells, and to read their states."""
    start = time.perf_counter()
    workspace = workspace_of(cells, storage, runs)
    planned = time.perf_counter() - start
    Store(workspace).enqueue()
    store = Store(workspace)
    start = time.perf_counter()
    states = store.states()
    return f"{len(states)} cells: {planned:.2f} s to plan, {time.perf_counter() - start:.2f} s to read their states"


def run(config: StudyBenchConfig) -> int:
    """Measure and print; 0."""
    with tempfile.TemporaryDirectory() as folder:
        for number, (measure, cells) in enumerate(
            ((measure_store, config.cells), (measure_worker, config.cells), (measure_plan, config.planned))
        ):
            runs = Path(folder) / str(number)
            runs.mkdir()
            print(measure(cells, config.storage, runs), flush=True)
    return 0


COMMAND = Command(config=StudyBenchConfig, run=run, doc=__doc__, errors=())

if __name__ == "__main__":
    sys.exit(COMMAND.main(sys.argv[1:]))
