"""The study command from outside: a whole study, and what stops it half way."""

import json
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lina_lab.records.runstore import STATUS
from tests.system.conftest import ROOT, Place

pytestmark = pytest.mark.system
Finished = tuple[Place, tuple[int, str, str]]


def test_a_study_runs_to_its_end(finished: Finished) -> None:
    place, (code, out, err) = finished
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "4 cells, 0 of them done before"
    assert [line[:3] for line in lines[1:5]] == ["1/4", "2/4", "3/4", "4/4"]
    assert all("done, val/loss_ema" in line and "images/s" in line for line in lines[1:5])
    assert lines[5] == "tiny: 4 done"
    assert {path.name for path in (place.folder / "runs").iterdir()} == {
        "mlartifacts",
        "mlflow.db",
        "optuna.db",
        "setup.lock",
        "tiny",
    }


def test_each_cell_s_folder_and_run_hold_its_result(finished: Finished) -> None:
    place, _ = finished
    runs = place.attempts()
    assert len(runs) == 4
    for run in runs:
        folder = place.folder / "runs/tiny" / run.data.tags["lina.cell"]
        record = json.loads((folder / "result.json").read_text())
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert (record["status"], record["mlflow_run"]) == ("done", run.info.run_id)
        assert config["model"]["dim"] == record["axes"]["model.dim"] == int(run.data.params["model.dim"])
        assert record["result"]["peak_memory_mib"] < 2048
        for name, value in record["result"]["metrics"].items():
            assert run.data.metrics[name] == pytest.approx(value)
        names = {artifact.path for artifact in place.client.list_artifacts(run.info.run_id)}
        assert names == {"config.yaml", "result.json", "samples.png", "samples.npz"}
        assert (folder / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_metrics_are_over_images_seen(finished: Finished) -> None:
    place, _ = finished
    for run in place.attempts():
        train = place.client.get_metric_history(run.info.run_id, "train/loss")
        # The first loss is that of weights which have seen nothing.
        assert [point.step for point in train] == list(range(0, 1280, 16))
        for name in ("val/loss_raw", "val/loss_ema"):
            assert [p.step for p in place.client.get_metric_history(run.info.run_id, name)] == [640, 1280]


def test_the_same_cell_in_another_process_has_the_same_losses_bit_for_bit(finished: Finished, place: Place) -> None:
    code, _, _ = place.study("model.dim=16")
    assert code == 0
    again, before = place.losses(), finished[0].losses()
    assert len(again) == 2
    assert all(before[cell] == losses for cell, losses in again.items())


def test_the_same_command_again_does_nothing_quickly(finished: Finished) -> None:
    place, _ = finished
    start = time.monotonic()
    code, out, err = place.study()
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == ["4 cells, 4 of them done before", "tiny: 4 done"]
    assert time.monotonic() - start < 30
    assert len(place.attempts()) == 4


def test_figures_and_tables_are_drawn_from_the_store(finished: Finished, tmp_path: Path) -> None:
    place, _ = finished
    code, out, err = place.python(str(ROOT / "analysis/plots.py"), "study=tiny", f"out={tmp_path}")
    assert (code, err) == (0, "")
    folder = tmp_path / "tiny"
    written = {Path(line) for line in out.splitlines()}
    assert written == set(folder.iterdir())
    assert {path.name for path in written} == {
        f"{name}{ending}"
        for name, endings in {
            "scaling": (".png", ".pdf", ".csv"),
            "curves": (".png", ".pdf", ".csv"),
            "differences": (".png", ".pdf", ".csv"),
            "compute": (".png", ".pdf", ".csv"),
            "primary": (".png", ".pdf", ".csv"),
            "samples": (".png", ".pdf", ".csv"),
            "primary_table": (".csv", ".md", ".tex"),
            "slope_table": (".csv", ".md", ".tex"),
            "table": (".csv", ".md", ".tex"),
            "difference_table": (".csv", ".md", ".tex"),
            "fit_table": (".csv", ".md", ".tex"),
            "checkpoints": (".parquet",),
            "report": (".md",),
            "index": (".html",),
        }.items()
        for ending in endings
    }
    assert all(path.stat().st_size > 100 for path in written)
    assert "| subtraction vs. division |" in (folder / "report.md").read_text()


@pytest.mark.parametrize(
    ("how", "code", "word"),
    [(signal.SIGINT, 130, "stopped"), (signal.SIGTERM, 143, "terminated")],
    ids=["ctrl-c", "sigterm"],
)
def test_a_stop_in_the_middle_of_a_cell_loses_no_finished_cell(
    finished: Finished, place: Place, how: signal.Signals, code: int, word: str
) -> None:
    found, out, err = place.stopped_in_the_second_cell(how)
    assert found == code
    assert err == f"error: {word}; the same command resumes\n"
    assert out.splitlines()[-1].endswith("stopped by hand" if how is signal.SIGINT else "terminated (SIGTERM)")
    assert [state for _, state in place.trials()] == ["done", "interrupted", "waiting", "waiting"]
    assert [run.info.status for run in place.attempts()] == ["FINISHED", "KILLED"]
    if how is signal.SIGTERM:  # from there on both are alike
        goes_on_to_the_end(finished, place, of_before=1)


def goes_on_to_the_end(finished: Finished, place: Place, of_before: int) -> None:
    """The same command again ends as if nothing had happened: every cell done once, with the same losses."""
    code, out, err = place.study()
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"4 cells, {of_before} of them done before"
    assert Counter(state for _, state in place.trials())["done"] == 4
    assert [run.data.tags[STATUS] for run in place.attempts()] == ["done"] * 4
    assert place.losses() == finished[0].losses()


def test_a_kill_in_the_middle_of_a_cell_is_found_out(finished: Finished, place: Place) -> None:
    code, _, _ = place.stopped_in_the_second_cell(signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert [state for _, state in place.trials()] == ["done", "running", "waiting", "waiting"]
    goes_on_to_the_end(finished, place, of_before=1)
    assert [state for _, state in place.trials()] == ["done", "interrupted", "done", "done", "done"]


def test_a_full_disk_is_said_and_the_study_goes_on_when_there_is_space(
    finished: Finished, place: Place, small_disk: Callable[[int], Path]
) -> None:
    needed = sum(512 * path.stat().st_blocks for path in (finished[0].folder / "runs").rglob("*")) // 1024
    disk = small_disk(needed * 3 // 4)
    (place.folder / "runs").symlink_to(disk)
    code, out, err = place.study()
    assert code == 1
    assert err.count("\n") == 1
    assert "no space left under" in err
    assert "run the same command again" in err
    before = sum(": done," in line for line in out.splitlines())
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    goes_on_to_the_end(finished, place, of_before=before)


@pytest.mark.parametrize("name", ["optuna.db", "mlflow.db"])
def test_a_damaged_store_is_said_and_nothing_is_touched(finished: Finished, place: Place, name: str) -> None:
    shutil.copytree(finished[0].folder / "runs", place.folder / "runs")
    database = place.folder / "runs" / name
    database.write_bytes(b"\0" * 100 + database.read_bytes()[100:])
    damaged = database.read_bytes()
    # A new seed, so that both stores are needed.
    code, _, err = place.study("seed=1")
    assert code == 1
    assert err.count("\n") == 1
    assert "a store under" in err
    assert "is damaged" in err
    assert database.read_bytes() == damaged
    for record in (finished[0].folder / "runs/tiny").glob("*/result.json"):
        copy = place.folder / "runs" / record.relative_to(finished[0].folder / "runs")
        assert copy.read_bytes() == record.read_bytes()


def test_a_folder_that_cannot_be_written_is_said(place: Place, small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(64)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for folder in (disk / "runs", place.folder / "studies/study/tiny.yaml/runs"):
        code, out, err = place.study(f"paths.runs={folder}")
        assert (code, out) == (1, "")
        assert err.count("\n") == 1
        assert f"cannot write {folder.parent}" in err
        assert "paths.runs=FOLDER" in err


def test_a_wrong_configuration_starts_nothing(place: Place) -> None:
    code, out, err = place.study("model.dimm=8")
    assert (code, out) == (2, "")
    assert err.startswith("error: model.dimm is not a field (did you mean model.dim?)")
    assert {path.name for path in place.folder.iterdir()} == {"studies"}
