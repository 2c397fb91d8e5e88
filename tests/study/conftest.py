"""A study with a trainer that the test controls in place of the real one."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from rich.console import Console

from lina_lab.config import PathsConfig, TrialConfig
from lina_lab.records.result import Progress, Report, TrialResult
from lina_lab.records.runstore import KIND, TrackingRun
from lina_lab.records.status import TrialStatus
from lina_lab.study.display import PlainDisplay
from lina_lab.study.grid import Plan, make_plan
from lina_lab.study.store import Store
from lina_lab.study.summary import Summary
from lina_lab.study.worker import run_study
from lina_lab.study.workspace import Workspace
from lina_lab.util.errors import explained

RESULT = TrialResult(
    status=TrialStatus.DONE,
    images_seen=64,
    steps=4,
    metrics={"val/loss_ema": 0.5, "val/loss_raw": 0.6, "train/loss": 0.7},
    parameters=10,
    trainable_parameters=8,
    images_per_second=100.0,
    fit_seconds=0.0,
    peak_memory_mib=1.0,
)


def workspace_at(runs: Path, plan: Plan, storage: str | None = None) -> Workspace:
    return Workspace.of(plan, PathsConfig(runs=str(runs), storage=storage))


def store_at(runs: Path, plan: Plan, storage: str | None = None) -> Store:
    return Store(workspace_at(runs, plan, storage))


@dataclass
class Lab:
    """A study in a folder, and a trainer that does `behaviour` for a cell."""

    plan: Plan
    runs: Path
    behaviour: Callable[[TrialConfig], TrialResult] = lambda config: RESULT
    trained: list[str] = field(default_factory=list)
    made: int = 0

    def launcher(self) -> Any:
        self.made += 1

        def launch(config: TrialConfig, folder: Path, *, tracking: TrackingRun, report: Report) -> TrialResult:
            assert (folder / "config.yaml").exists()
            report(Progress(images=1, loss=1.0))
            self.trained.append(config.config_hash())
            return self.behaviour(config)

        return nullcontext(launch)

    def run(self, *, joins: bool = False, other_code: bool = False) -> Summary:
        with (self.runs.parent / "lines.txt").open("a") as file:
            display = PlainDisplay(Console(file=file, width=200))
            with explained(self.runs):
                return run_study(
                    store_at(self.runs, self.plan), self.launcher, display, joins=joins, other_code=other_code
                )

    @property
    def lines(self) -> str:
        return (self.runs.parent / "lines.txt").read_text()

    def states(self) -> list[str]:
        states = store_at(self.runs, self.plan).states()
        return [states[cell.config_hash].status for cell in self.plan.cells]

    def record(self, index: int) -> dict[str, Any]:
        folder = self.runs / self.plan.study.name / self.plan.cells[index].config_hash
        record: dict[str, Any] = json.loads((folder / "result.json").read_text())
        return record

    def cell_runs(self) -> list[Run]:
        client = MlflowClient(f"sqlite:///{self.runs / 'mlflow.db'}")
        experiment = client.get_experiment_by_name(self.plan.study.name)
        assert experiment is not None
        return list(client.search_runs([experiment.experiment_id], f"tags.`{KIND}` = 'cell'"))


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store with its tables: making them takes seconds."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def lab(tiny_study: Any, tmp_path: Path, empty_mlflow: Path) -> Lab:
    runs = tmp_path / "runs"
    runs.mkdir()
    shutil.copy(empty_mlflow, runs / "mlflow.db")
    return Lab(make_plan(*tiny_study()), runs)


def second_only(plan: Plan, action: Callable[[], TrialResult]) -> Callable[[TrialConfig], TrialResult]:
    return lambda config: action() if config == plan.cells[1].config else RESULT


def raising(error: BaseException) -> Callable[[], TrialResult]:
    def action() -> TrialResult:
        raise error

    return action
