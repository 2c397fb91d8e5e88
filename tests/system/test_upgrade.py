"""A folder of runs that version 0.1.0 wrote is read, reported and gone on with (tests/data/runs_0_1_0/README.md)."""

import json
import socket
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from lina_lab.analysis.load.runs import read_study

from tests.conftest import DATA

STORE = DATA / "runs_0_1_0"
GOLDEN: dict[str, Any] = json.loads((STORE / "golden.json").read_text())
ROUNDING = 1e-5
"""Relative difference of losses that another order of sums makes within a few steps."""
GROWN = 0.05
"""What such a difference may grow to over 200 steps: Adam divides gradients of mere rounding by their size."""
FIRST_STUDY = """\
# @package _global_
defaults: [/base/digits, _self_]

study:
  question: Does division or subtraction normalization scale better?
  axes:
    normalization:
      model.attention.normalization: [division, subtraction]
    convolution:
      model.attention.conv: [none, depthwise]
    size:
      model.dim: [16, 32, 64]
  seeds: [0, 1, 2]
  objectives:
    - metric: val/loss_ema
    - metric: eval/fid_pixels

model:
  attention:
    gate: none
"""
"""The first study as it was in version 0.1.0; today's is another one of the same name."""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The folder of runs, unpacked here, on this host."""
    with tarfile.open(STORE / "runs.tar.xz") as archive:
        # Python's releases before 3.11.4 know no filters.
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    folder = tmp_path / "runs"
    with sqlite3.connect(folder / "mlflow.db") as database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, '/srv/lina/runs', ?)", [str(folder)])
    for lease in folder.glob("*/*/lease.json"):
        lease.write_text(json.dumps({**json.loads(lease.read_text()), "host": socket.gethostname()}))
    return folder


def study(runs: Path, name: str, *instead: str) -> str:
    """Give version 0.1.0's command again, with a study of another file if there is one; what it printed."""
    choice, *fields = GOLDEN[name]["arguments"]
    line = [sys.executable, "-m", "lina_lab.run", *(instead or [choice]), *fields, f"paths.runs={runs}"]
    done = subprocess.run(line, cwd=runs.parent, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def results(runs: Path, name: str) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in (runs / name).glob("*/result.json")}


def losses(runs: Path, run: str, images: Iterable[str]) -> dict[str, float]:
    """The training losses of a run at some numbers of images."""
    with sqlite3.connect(runs / "mlflow.db") as database:
        query = "SELECT step, value FROM metrics WHERE run_uuid = ? AND key = 'train/loss'"
        found = {str(step): value for step, value in database.execute(query, [run])}
    return {step: found[step] for step in images}


def test_its_finished_study_is_reported_with_its_numbers(runs: Path) -> None:
    found = read_study("normalization_scaling", runs).cells.set_index("cell")
    cells = GOLDEN["normalization_scaling"]["cells"]
    assert set(found.index) == set(cells)
    for cell, golden in cells.items():
        for metric, value in golden["metrics"].items():
            if metric in found:
                assert found.loc[cell, metric] == value


@pytest.mark.system
def test_its_finished_study_is_not_trained_again(runs: Path) -> None:
    before = results(runs, "normalization_scaling")
    kept = runs.parent / "studies/study/first.yaml"
    kept.parent.mkdir(parents=True)
    kept.write_text(FIRST_STUDY)
    assert "4 done" in study(runs, "normalization_scaling", "study=first", "study.name=normalization_scaling")
    assert results(runs, "normalization_scaling") == before


@pytest.mark.system
def test_its_interrupted_study_goes_on_where_it_was_killed(runs: Path) -> None:
    before = results(runs, "kv_gate")
    assert "3 done" in study(runs, "kv_gate")
    after = results(runs, "kv_gate")
    cells = GOLDEN["kv_gate"]["cells"]
    assert set(after) == set(cells)
    for cell, golden in cells.items():
        if golden["done_before"]:
            assert after[cell] == before[cell]
            continue
        result = json.loads(after[cell])["result"]
        assert result["resumed_at"] == golden["resumed_at"]
        assert losses(runs, json.loads(after[cell])["mlflow_run"], golden["losses"]) == pytest.approx(
            golden["losses"], rel=ROUNDING
        )
        assert result["metrics"] == pytest.approx(golden["metrics"], rel=GROWN)


@pytest.mark.system
def test_a_changed_configuration_of_its_study_is_refused_with_todays_field_names(runs: Path) -> None:
    line = [sys.executable, "-m", "lina_lab.run", *GOLDEN["kv_gate"]["arguments"], f"paths.runs={runs}"]
    line.append("model.noise_samples_per_token=3")
    done = subprocess.run(line, cwd=runs.parent, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert "model.noise_samples_per_token was 2 and is 3." in done.stderr
    assert "noise_draws" not in done.stderr
