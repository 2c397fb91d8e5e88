"""The record of a cell, and the enumerations of every status."""

import json
from pathlib import Path
from typing import Any

import mlflow.entities
import pytest

from lina_lab.records.record import Record, read_record, write_record
from lina_lab.records.result import TrialResult
from lina_lab.records.status import CELL_STATUS, RUN_STATUS, CellStatus, RunStatus, TrialStatus
from tests.study.conftest import RESULT

OF_VERSION_0_1: dict[str, Any] = {
    "identity": "c67e2082b810",
    "axes": {"model.dim": 16},
    "seed": 0,
    "status": "done",
    "mlflow_run": "ff21",
    "result": {
        "status": "done",
        "images_seen": 15360,
        "steps": 480,
        "metrics": {"val/loss_ema": 0.6},
        "parameters": 29537,
        "trainable_parameters": 25009,
        "images_per_second": 1244.6,
        "fit_seconds": 16.1,
        "peak_memory_mib": 1104.4,
        "ranks": 1,
        "step_seconds": 0.02,
        "data_seconds": 0.0002,
        "communication_seconds": None,
        "error": None,
        "resumed_at": None,
        "problems": [],
    },
    "error": None,
}


def write(folder: Path, data: Any) -> None:
    (folder / "result.json").write_text(json.dumps(data))


def test_a_record_comes_back_with_its_types(tmp_path: Path) -> None:
    record = Record(
        config_hash="a", axes={"x": 1}, seed=0, status=CellStatus.DONE, mlflow_run="r", result=RESULT, error=None
    )
    write_record(tmp_path, record)
    found = read_record(tmp_path, "a")
    assert found == record
    assert isinstance(found.status, CellStatus)
    assert found.result is not None
    assert found.result.status is TrialStatus.DONE
    assert read_record(tmp_path, "b") is None


def test_a_record_of_version_0_1_is_read(tmp_path: Path) -> None:
    write(tmp_path, OF_VERSION_0_1)
    found = read_record(tmp_path, "c67e2082b810")
    assert found is not None
    assert found.result is not None
    assert (found.status, found.result.steps, found.result.problems) == (CellStatus.DONE, 480, ())


def test_a_result_without_newer_fields_has_their_defaults() -> None:
    result = dict(OF_VERSION_0_1["result"])
    for name in ("ranks", "step_seconds", "data_seconds", "communication_seconds", "problems"):
        del result[name]
    assert TrialResult.from_dict(result).ranks == 1


@pytest.mark.parametrize(
    "change",
    [
        {"status": "sleeping"},
        {"result": {"status": "done"}},
        {"result": {**OF_VERSION_0_1["result"], "status": "asleep"}},
        {"surprise": 1},
        {"result": []},
        {"result": 3},
    ],
)
def test_what_is_no_record_is_not_taken_for_one(tmp_path: Path, change: dict[str, Any]) -> None:
    write(tmp_path, {**OF_VERSION_0_1, **change})
    assert read_record(tmp_path, "c67e2082b810") is None


def test_a_missing_or_torn_file_is_no_record(tmp_path: Path) -> None:
    assert read_record(tmp_path, "a") is None
    (tmp_path / "result.json").write_text('{"identity": "a"')
    assert read_record(tmp_path, "a") is None
    write(tmp_path, [1, 2])
    assert read_record(tmp_path, "a") is None


def test_every_status_has_its_counterparts() -> None:
    assert CELL_STATUS.keys() == set(TrialStatus)
    assert RUN_STATUS.keys() == set(CellStatus)
    assert {status for status in CellStatus if status.final} == {"done", "diverged", "pruned"}
    assert {status for status in CellStatus if status.open} == {"waiting", "running", "interrupted"}
    assert CELL_STATUS[TrialStatus.PREEMPTED].open


def test_the_run_s_statuses_are_mlflow_s() -> None:
    assert {mlflow.entities.RunStatus.from_string(status) for status in RunStatus}
