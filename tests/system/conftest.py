"""Whole commands, in folders and processes of their own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from lina_lab.records.runstore import CELL, KIND, STATUS
from tests.conftest import STUDY, TINY

ROOT = Path(__file__).parents[2]
FILE = {
    "study": STUDY,
    **TINY,
    # Long enough to be hit in the middle.
    "trainer": {"max_images": 1280, "val_every_images": 640},
}


@cache
def mlflow_tables() -> bytes:
    """MLflow's store with its tables: making them takes seconds."""
    with tempfile.TemporaryDirectory() as folder:
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
        return (Path(folder) / "mlflow.db").read_bytes()


@dataclass
class Place:
    """A folder with a study `tiny` of four cells, where commands are run."""

    folder: Path
    tracking_uri: str | None = None
    """MLflow's store; None: the file in the folder of runs."""

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def python(self, *arguments: str) -> tuple[int, str, str]:
        """Run `python ...` to its end: exit code, standard output, standard error."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def study(self, *overrides: str) -> tuple[int, str, str]:
        return self.python("-m", "lina_lab.run", "study=tiny", *overrides)

    def states(self) -> dict[str, str]:
        """The last state of each cell."""
        return dict(self.trials())

    def stopped_in_the_second_cell(self, how: signal.Signals) -> tuple[int, str, str]:
        """Run the study, and send a signal when the second cell trains."""
        process = self.start("-m", "lina_lab.run", "study=tiny")
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        assert lines[1].startswith("1/4"), lines
        deadline = time.monotonic() + 60
        while len(list((self.folder / "runs/tiny").glob("*/config.yaml"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
        return process.returncode, "".join(lines) + out, err

    def trials(self) -> list[tuple[str, str]]:
        """Identity and state of each of Optuna's trials, in their order."""
        study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{self.folder / 'runs/optuna.db'}")
        return [(t.user_attrs["cell"], t.user_attrs.get("status", t.state.name.lower())) for t in study.get_trials()]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.tracking_uri or f"sqlite:///{self.folder / 'runs/mlflow.db'}")

    def attempts(self) -> list[Run]:
        experiment = self.client.get_experiment_by_name("tiny")
        assert experiment is not None
        runs = self.client.search_runs([experiment.experiment_id], f"tags.`{KIND}` = 'cell'")
        return sorted(runs, key=lambda run: run.info.start_time)

    def losses(self) -> dict[str, list[tuple[int, float]]]:
        """Training loss over images of each finished cell."""
        return {
            run.data.tags[CELL]: [
                (point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, "train/loss")
            ]
            for run in self.attempts()
            if run.data.tags[STATUS] == "done"
        }


def wait_for(condition: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(process: psutil.Process) -> bool:
    """Whether a process still does something: one that has ended, and that nobody has asked for, does not."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def make_place(folder: Path, *, empty: bool = False, **sections: Any) -> Place:
    """A place with the study's file, and MLflow's empty tables if the place is not to be `empty`."""
    (folder / "studies/study").mkdir(parents=True)
    if not empty:
        (folder / "runs").mkdir()
        (folder / "runs/mlflow.db").write_bytes(mlflow_tables())
    (folder / "studies/study/tiny.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(FILE | sections)}")
    return Place(folder)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path, empty=True)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, tuple[int, str, str]]:
    """The study, run to its end once; not to be changed."""
    place = make_place(tmp_path_factory.mktemp("finished"), empty=True)
    return place, place.study()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes an empty file system of so many KiB. Needs root, as CI has it."""
    mounted: list[Path] = []

    def make(kib: int) -> Path:
        path = tmp_path / f"disk{len(mounted)}"
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(path)], check=True)
        mounted.append(path)
        return path

    yield make
    for path in mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
