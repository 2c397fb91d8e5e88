"""What one of a study's three stores lost is restored from the others, or said."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from lina_lab.analysis.load.runs import read_study
from lina_lab.analysis.report.narrative import excluded_sentences
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from lina_lab.config import TrialConfig
from lina_lab.records.curve import append_points
from lina_lab.records.record import read_record
from lina_lab.records.result import TrialResult
from lina_lab.records.runstore import CELL, STATUS
from lina_lab.study.grid import make_plan
from tests.study.conftest import RESULT, Lab, raising, second_only

CURVE = [("val/loss_ema", 0.9, 32, 1), ("val/loss_ema", 0.5, 64, 2)]


@pytest.fixture
def done(lab: Lab) -> Lab:
    """A study that is done, whose cells kept their curves."""

    def behaviour(config: TrialConfig) -> TrialResult:
        append_points(folder_of(lab, config), CURVE)
        return RESULT

    lab.behaviour = behaviour
    lab.run()
    lab.made = 0
    return lab


def folder_of(lab: Lab, config: TrialConfig) -> Path:
    return lab.runs / "tiny" / config.config_hash()


def client_of(lab: Lab) -> MlflowClient:
    return MlflowClient(f"sqlite:///{lab.runs / 'mlflow.db'}")


def final_runs(lab: Lab) -> dict[str, Run]:
    runs = [run for run in lab.cell_runs() if run.data.tags[STATUS] == "done"]
    found = {run.data.tags[CELL]: run for run in runs}
    assert len(found) == len(runs)
    return found


def curve(lab: Lab, run: Run, metric: str = "val/loss_ema") -> list[tuple[int, float]]:
    return [(p.step, p.value) for p in client_of(lab).get_metric_history(run.info.run_id, metric)]


def delete_runs(lab: Lab) -> None:
    for run in lab.cell_runs()[:3]:
        client_of(lab).delete_run(run.info.run_id)


def delete_experiment(lab: Lab) -> None:
    client_of(lab).delete_experiment(lab.cell_runs()[0].info.experiment_id)


def lose_file(lab: Lab) -> None:
    """Without MLflow's file, and in another folder, for MLflow keeps a file open as long as the process lives."""
    (lab.runs / "mlflow.db").unlink()
    lab.runs = lab.runs.rename(lab.runs.with_name("moved"))


def older_backup(lab: Lab) -> None:
    """A copy of the file from before the cells ended."""
    for run in lab.cell_runs():
        client_of(lab).set_tag(run.info.run_id, STATUS, "running")


@pytest.mark.parametrize(
    ("lose", "sentence"),
    [
        (delete_runs, "3 cells had deleted runs in MLflow, which are restored"),
        (delete_experiment, "4 cells had deleted runs in MLflow, which are restored"),
        (lose_file, "4 cells had no run in MLflow with their result; it was sent again from their folders:"),
        (older_backup, "4 cells had no run in MLflow with their result; it was sent again from their folders:"),
    ],
    ids=["runs", "experiment", "file", "backup"],
)
def test_what_mlflow_lost_is_restored_when_the_command_starts_and_nothing_is_trained(
    done: Lab, lose: Callable[[Lab], None], sentence: str
) -> None:
    before = {name: run.data.tags for name, run in final_runs(done).items()}
    lose(done)
    assert done.run().counts == {"done": 4}
    assert done.made == 0
    assert sentence in done.lines
    runs = final_runs(done)
    assert set(runs) == {cell.config_hash for cell in done.plan.cells}
    for name, run in runs.items():
        assert run.info.status == "FINISHED"
        tags = {tag: text for tag, text in run.data.tags.items() if tag != "mlflow.parentRunId"}
        assert tags == {tag: text for tag, text in before[name].items() if tag in tags}
        assert run.data.metrics["images_per_second"] == 100.0
        record = read_record(done.runs / "tiny" / name, name)
        assert record is not None
        assert record.mlflow_run == run.info.run_id
    if lose is lose_file:
        assert all(curve(done, run) == [(32, 0.9), (64, 0.5)] for run in runs.values())
    seen = done.lines
    assert done.run().counts == {"done": 4}
    assert "had" not in done.lines.removeprefix(seen)


def test_a_study_that_goes_on_after_mlflow_s_file_was_lost_is_reported_whole(done: Lab, tiny_study: Any) -> None:
    lose_file(done)
    done.plan = make_plan(*tiny_study(seeds=[0, 1]))
    assert done.run().counts == {"done": 8}
    assert len(done.trained) == 8
    done.plan = make_plan(*tiny_study(seeds=[0, 1]))
    assert len(final_runs(done)) == 8


def test_a_cell_whose_curve_an_earlier_version_did_not_keep_is_sent_without_it_and_that_is_said(done: Lab) -> None:
    for cell in done.plan.cells:
        (folder_of(done, cell.config) / "curve.jsonl").unlink()
    lose_file(done)
    done.run()
    assert "which hold no curve, because an earlier version trained them: division 8 seed 0" in done.lines
    assert [curve(done, run) for run in final_runs(done).values()] == [[(64, 0.5)]] * 4
    assert {run.data.metrics["fit_seconds"] for run in final_runs(done).values()} == {0.0}


def test_records_that_are_gone_are_fetched_from_mlflow_and_the_rest_is_named(done: Lab) -> None:
    first, second, *_ = (folder_of(done, cell.config) for cell in done.plan.cells)
    shutil.rmtree(first)
    shutil.rmtree(second)
    artifacts = Path(final_runs(done)[second.name].info.artifact_uri.removeprefix("file://"))
    (artifacts / "result.json").unlink()
    assert done.run().counts == {"done": 4}
    assert done.made == 0
    assert "1 cells had no result in their folders; it was fetched from MLflow, but checkpoints are gone" in done.lines
    assert "1 cells have lost their folders, and with them checkpoints and pictures" in done.lines
    record = read_record(first, first.name)
    assert record is not None
    assert record.result == RESULT


def test_a_result_that_no_store_has_is_trained_again_and_that_is_said(done: Lab) -> None:
    cell = done.plan.cells[1]
    shutil.rmtree(folder_of(done, cell.config))
    run = final_runs(done)[cell.config_hash]
    lose_file(done)
    assert done.run().counts == {"done": 4}
    assert done.trained[4:] == [cell.config_hash]
    assert "1 cells have a result neither in their folders nor in MLflow: they are trained again" in done.lines
    assert final_runs(done)[cell.config_hash].info.run_id != run.info.run_id
    assert client_of(done).search_runs([run.info.experiment_id], run_view_type=ViewType.DELETED_ONLY) == []


def test_an_interrupted_cell_keeps_its_checkpoint_and_its_curve_when_its_run_is_lost(lab: Lab) -> None:
    lab.behaviour = second_only(lab.plan, raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        lab.run()
    cell = lab.plan.cells[1]
    lose_file(lab)
    folder = folder_of(lab, cell.config)
    append_points(folder, CURVE[:1])
    (folder / "step-00000002.ckpt").write_bytes(b"half way")
    sent: list[list[tuple[int, float]]] = []

    def behaviour(config: TrialConfig) -> TrialResult:
        if config == cell.config:
            (run,) = (run for run in lab.cell_runs() if run.data.tags[CELL] == cell.config_hash)
            sent.append(curve(lab, run))
        return RESULT

    lab.behaviour = behaviour
    lab.run()
    assert sent == [[(32, 0.9)]]
    assert (folder / "step-00000002.ckpt").exists()


def test_final_numbers_of_a_cell_that_is_found_again_are_logged_once(done: Lab) -> None:
    (done.runs / "optuna.db").unlink()
    assert done.run().counts == {"done": 4}
    assert len(done.trained) == 4
    for run in final_runs(done).values():
        assert curve(done, run, "fit_seconds") == [(64, 0.0)]


def test_the_commit_of_a_restored_run_is_that_of_its_training(done: Lab) -> None:
    for cell in done.plan.cells:
        folder = folder_of(done, cell.config)
        record = read_record(folder, cell.config_hash)
        assert record is not None
        assert record.source is not None
        text = (folder / "result.json").read_text()
        source = replace(record, source={"mlflow.source.git.commit": "0123"}).source
        assert source is not None
        old = record.source["mlflow.source.git.commit"]
        (folder / "result.json").write_text(text.replace(old, "0123"))
    lose_file(done)
    done.run()
    assert {run.data.tags["mlflow.source.git.commit"] for run in final_runs(done).values()} == {"0123"}


def test_a_report_says_which_cells_of_the_study_it_does_not_have(done: Lab) -> None:
    whole = read_study("tiny", done.runs)
    assert whole.absent == []
    assert not [line for line in excluded_sentences(whole, pd.DataFrame({"diverged": []})) if "without a run" in line]
    for run in done.cell_runs()[:1]:
        client_of(done).delete_run(run.info.run_id)
        label = run.info.run_name
    part = read_study("tiny", done.runs)
    assert part.absent == [label]
    (line, *_) = excluded_sentences(part, pd.DataFrame({"diverged": []}))
    assert line.startswith(f"1 cell of the study without a run ({label}): not trained yet, or lost")
