"""A study from the queue to the records, with a trainer that obeys the test in place of the real one."""

import errno
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from lina_lab.config import TrialConfig, from_stored, to_dict
from lina_lab.records.result import TrialResult
from lina_lab.records.runstore import CELL, CONFIG, KIND, STATUS, STUDY, config_from_tags
from lina_lab.records.status import TrialStatus
from lina_lab.study.grid import make_plan
from lina_lab.study.tracking import Tracker
from lina_lab.study.versions import newest_version
from lina_lab.util.errors import StudyError
from lina_lab.util.signals import stops_as_exceptions
from tests.study.conftest import RESULT, Lab, raising, second_only, store_at, workspace_at


def test_every_cell_is_trained_once_and_recorded_everywhere(lab: Lab) -> None:
    summary = lab.run()
    assert summary.counts == {"done": 4}
    assert len(summary.overhead_seconds) == 4
    assert lab.trained == [cell.config_hash for cell in lab.plan.cells]
    assert lab.states() == ["done"] * 4
    record = lab.record(1)
    assert (record["status"], record["seed"]) == ("done", 0)
    assert record["axes"] == {"model.attention.normalization": "division", "model.dim": 16}
    assert record["result"]["metrics"] == RESULT.metrics
    runs = {run.data.tags[CELL]: run for run in lab.cell_runs()}
    assert runs.keys() == set(lab.trained)
    run = runs[lab.plan.cells[1].config_hash]
    assert run.info.run_id == record["mlflow_run"]
    assert run.info.status == "FINISHED"
    assert run.data.params["model.dim"] == "16"
    assert len(run.data.params) == len(_leaves(to_dict(lab.plan.cells[1].config)))
    assert run.data.metrics["trainable_parameters"] == 8
    assert run.data.tags["lina.axis.model.dim"] == "16"
    assert len(run.data.tags["mlflow.source.git.commit"]) == 40
    assert run.data.tags["mlflow.source.git.dirty"] in ("true", "false")


def _leaves(data: Any) -> list[Any]:
    return [leaf for value in data.values() for leaf in _leaves(value)] if isinstance(data, dict) else [data]


def test_the_children_belong_to_the_study_s_run(lab: Lab) -> None:
    lab.run()
    client = MlflowClient(f"sqlite:///{lab.runs / 'mlflow.db'}")
    parents = {run.data.tags["mlflow.parentRunId"] for run in lab.cell_runs()}
    assert len(parents) == 1
    parent = client.get_run(parents.pop())
    assert parent.data.tags[KIND] == "study"
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["cells/done"] == 4
    assert "Does it run?" in parent.data.tags["mlflow.note.content"]


def test_a_cell_s_run_holds_its_configuration_with_its_types_also_one_of_version_0_1_that_is_resumed(lab: Lab) -> None:
    configs = {cell.config_hash: cell.config for cell in lab.plan.cells}
    lab.behaviour = lambda config: raising(RuntimeError("once"))()
    lab.run()
    client = MlflowClient(f"sqlite:///{lab.runs / 'mlflow.db'}")
    for run in lab.cell_runs():
        client.delete_tag(run.info.run_id, CONFIG)
    lab.behaviour = lambda config: RESULT
    lab.run()
    for run in lab.cell_runs():
        stored = config_from_tags(run.data.tags)
        assert stored is not None
        assert from_stored(TrialConfig, stored) == configs[run.data.tags[CELL]]


def test_optuna_s_own_tools_read_the_store(lab: Lab) -> None:
    lab.run()
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{lab.runs / 'optuna.db'}")
    frame = study.trials_dataframe()
    assert (frame["state"] == "COMPLETE").all()
    assert (frame["value_val/loss_ema"] == 0.5).all()
    assert sorted(frame["user_attrs_model.dim"]) == [8, 8, 16, 16]


def test_what_is_done_is_skipped_without_a_trainer(lab: Lab) -> None:
    lab.run()
    made = lab.made
    assert lab.run().counts == {"done": 4}
    assert lab.made == made
    assert len(lab.trained) == 4
    assert len(lab.cell_runs()) == 4


def test_a_study_is_extended_by_what_is_new(lab: Lab, tiny_study: Any) -> None:
    lab.run()
    lab.plan = make_plan(*tiny_study(seeds=[0, 1]))
    assert lab.run().counts == {"done": 8}
    assert len(lab.trained) == len(set(lab.trained)) == 8


def test_a_cell_that_raises_is_failed_the_others_go_on_and_it_is_tried_again(lab: Lab) -> None:
    lab.behaviour = second_only(lab.plan, raising(RuntimeError("planted")))
    summary = lab.run()
    assert summary.counts == {"done": 3, "failed": 1}
    assert summary.failures == {"division 16 seed 0": "RuntimeError: planted"}
    assert lab.states() == ["done", "failed", "done", "done"]
    assert lab.record(1)["error"] == "RuntimeError: planted"
    failed = next(run for run in lab.cell_runs() if run.data.tags[STATUS] == "failed")
    assert failed.info.status == "FAILED"
    folder = lab.runs / "tiny" / lab.plan.cells[1].config_hash
    assert "Traceback" in (folder / "error.txt").read_text()
    assert study_metrics(lab)["cells/failed"] == 1
    for name in ("samples.png", "samples.npz"):
        (folder / name).write_bytes(b"of the failed attempt")
    lab.behaviour = lambda config: RESULT
    assert lab.run().counts == {"done": 4}
    assert len(lab.trained) == 5
    assert len(lab.cell_runs()) == 4
    assert (study_metrics(lab)["cells/failed"], study_metrics(lab)["cells/done"]) == (0, 4)
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "result.json", "lease.lock", "mlflow_run.txt"}


def study_metrics(lab: Lab) -> dict[str, float]:
    """Numbers of the study's own run."""
    client = MlflowClient(f"sqlite:///{lab.runs / 'mlflow.db'}")
    metrics: dict[str, float] = client.get_run(lab.cell_runs()[0].data.tags["mlflow.parentRunId"]).data.metrics
    return metrics


def test_a_cell_that_diverged_is_a_result(lab: Lab) -> None:
    diverged = replace(RESULT, status=TrialStatus.DIVERGED, error="the training loss is nan at step 3")
    lab.behaviour = second_only(lab.plan, lambda: diverged)
    assert lab.run().counts == {"done": 3, "diverged": 1}
    assert lab.record(1)["error"] == "the training loss is nan at step 3"
    assert lab.run().counts == {"done": 3, "diverged": 1}
    assert len(lab.trained) == 4


def test_a_job_of_a_cluster_is_known_by_its_number_until_its_result_is_recorded(lab: Lab) -> None:
    jobs = [lab.runs / "tiny" / cell.config_hash / "job.json" for cell in lab.plan.cells]
    for job in jobs:
        job.parent.mkdir(parents=True)
        job.write_text('{"job": "17", "attempt": "a"}')
    lab.behaviour = second_only(lab.plan, raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        lab.run()
    assert [job.exists() for job in jobs] == [False, True, True, True]
    lab.behaviour = lambda config: RESULT
    lab.run()
    assert not any(job.exists() for job in jobs)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143)], ids=["ctrl-c", "sigterm"])
def test_an_interruption_is_recorded_and_the_same_command_goes_on(lab: Lab, stop: BaseException) -> None:
    lab.behaviour = second_only(lab.plan, raising(stop))
    with pytest.raises(type(stop)):
        lab.run()
    assert lab.states() == ["done", "interrupted", "waiting", "waiting"]
    assert sorted(run.info.status for run in lab.cell_runs()) == ["FINISHED", "KILLED"]
    lab.behaviour = lambda config: RESULT
    assert lab.run().counts == {"done": 4}
    assert lab.trained.count(lab.plan.cells[0].config_hash) == 1
    assert lab.trained.count(lab.plan.cells[1].config_hash) == 2


@pytest.mark.parametrize("swallows", [True, False], ids=["swallowed", "another error came of it"])
def test_a_sigterm_that_a_cell_s_code_does_not_let_through_stops_the_study_at_this_cell(
    lab: Lab, swallows: bool
) -> None:
    def behaviour() -> TrialResult:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except SystemExit as stop:
            if not swallows:
                raise RuntimeError("DataLoader worker is killed by signal: Terminated") from stop
        return RESULT

    lab.behaviour = second_only(lab.plan, behaviour)
    with pytest.raises(SystemExit), stops_as_exceptions():
        lab.run()
    assert lab.states() == ["done", "done" if swallows else "interrupted", "waiting", "waiting"]


def test_a_full_disk_ends_the_study_with_a_sentence(lab: Lab) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "last.ckpt")
    lab.behaviour = second_only(lab.plan, raising(full))
    with pytest.raises(StudyError, match=r"no space left under .*free some and run the same command again"):
        lab.run()
    assert lab.states() == ["done", "interrupted", "waiting", "waiting"]
    lab.behaviour = lambda config: RESULT
    assert lab.run().counts == {"done": 4}


def test_a_changed_budget_is_refused_with_the_difference(lab: Lab, tiny_study: Any) -> None:
    lab.run()
    study, base = tiny_study()
    base["trainer"]["max_images"] = 128
    lab.plan = make_plan(study, base)
    with pytest.raises(
        StudyError, match=r"trainer\.max_images was 64 and is 128.*new_version=true.*study\.name="
    ) as caught:
        lab.run()
    assert "model.dim" not in str(caught.value)
    assert len(lab.trained) == 4


def test_a_changed_configuration_is_a_new_version_on_request(lab: Lab, tiny_study: Any) -> None:
    lab.run()
    plans = []
    for images in (128, 256, 128, 64):
        study, base = tiny_study()
        base["trainer"]["max_images"] = images
        plans.append(newest_version(workspace_at(lab.runs, make_plan(study, base))).plan.study.name)
    assert plans == ["tiny-v2", "tiny-v3", "tiny-v2", "tiny"]


def test_cells_of_another_grid_are_not_run(lab: Lab, tiny_study: Any) -> None:
    lab.behaviour = second_only(lab.plan, raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        lab.run()
    study, base = tiny_study()
    base["model"]["dim"] = 24
    whole, lab.plan, lab.behaviour = lab.plan, make_plan(study, base, ["model.dim"]), lambda config: RESULT
    assert lab.run().counts == {"done": 2}
    assert len(lab.trained) == 4
    lab.plan = whole
    assert lab.run().counts == {"done": 4}
    assert len(lab.trained) == 7


def test_a_lost_optuna_file_costs_no_training(lab: Lab) -> None:
    lab.run()
    (lab.runs / "optuna.db").unlink()
    assert lab.run().counts == {"done": 4}
    assert len(lab.trained) == 4
    assert "found in its folder" in lab.lines


def test_results_without_a_queue_and_without_their_mlflow_run_are_sent_again(lab: Lab) -> None:
    lab.run()
    (lab.runs / "optuna.db").unlink()
    old = lab.record(1)["mlflow_run"]
    MlflowClient(f"sqlite:///{lab.runs / 'mlflow.db'}").delete_run(old)
    assert lab.run().counts == {"done": 4}
    assert len(lab.trained) == len(lab.cell_runs()) == 4
    assert lab.record(1)["mlflow_run"] != old
    assert {run.data.metrics["val/loss_ema"] for run in lab.cell_runs()} == {0.5}


@pytest.mark.parametrize("name", ["optuna.db", "mlflow.db"])
@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be one" * 99, b"SQLite format 3\0" + b"x" * 9000]
)
def test_a_damaged_store_is_named_and_left_as_it_is(lab: Lab, name: str, content: bytes) -> None:
    lab.run()
    (lab.runs / name).write_bytes(content)
    if name == "mlflow.db":
        (lab.runs / "optuna.db").unlink()
    with pytest.raises(StudyError, match="is damaged"):
        lab.run()
    assert (lab.runs / name).read_bytes() == content
    assert lab.record(0)["status"] == "done"


def test_a_folder_that_cannot_be_made_is_named(lab: Lab) -> None:
    shutil.rmtree(lab.runs)
    lab.runs.write_text("a file in its place")
    with pytest.raises(StudyError, match=r"cannot write .*runs.*choose another folder with paths.runs=FOLDER"):
        lab.run()


def test_a_cell_in_other_hands_is_left_to_them_and_taken_over_when_they_are_gone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = store_at(lab.runs, lab.plan)
    other.enqueue()
    theirs = other.claim()
    assert theirs is not None
    looks = 0

    def pause(seconds: float) -> None:
        nonlocal looks
        looks += 1
        assert len(lab.trained) == 3
        if looks == 2:
            # As the operating system does for a process that dies: the lock is free, the trial still runs.
            theirs.lease.release()

    monkeypatch.setattr("lina_lab.study.worker.time.sleep", pause)
    assert lab.run().counts == {"done": 4}
    assert looks == 2
    assert lab.trained[3:] == [theirs.cell.config_hash]
    assert len(other.study.get_trials()) == 5


def test_the_cell_of_a_dead_worker_is_not_left_to_the_last(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker looks for the dead between its cells too, not only when nothing waits."""
    other = store_at(lab.runs, lab.plan)
    other.enqueue()
    theirs = other.claim()
    assert theirs is not None
    theirs.lease.release()
    monkeypatch.setattr("lina_lab.study.worker.STALE_CHECK_SECONDS", 0.0)
    assert lab.run().counts == {"done": 4}
    assert lab.trained[0] == theirs.cell.config_hash


def test_a_tracking_store_that_stays_away_stops_the_study_and_costs_no_training(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = False

    def behaviour(config: TrialConfig) -> TrialResult:
        nonlocal away
        away = config == lab.plan.cells[1].config
        return RESULT

    end = Tracker.end

    def ends(*arguments: Any, **keywords: Any) -> None:
        if away:
            raise MlflowException("API request failed")
        end(*arguments, **keywords)

    lab.behaviour = behaviour
    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "end", ends)
        patch.setattr("lina_lab.study.patience.PATIENCE_SECONDS", 0.0)
        with pytest.raises(StudyError, match=r"did not answer for 0 minutes \(.*what is trained is kept"):
            lab.run()
    assert lab.states() == ["done", "interrupted", "waiting", "waiting"]
    away, lab.behaviour = False, lambda config: RESULT
    assert lab.run().counts == {"done": 4}
    assert len(lab.trained) == 4


def test_a_worker_that_joins_queues_nothing_and_takes_the_costliest_first(lab: Lab) -> None:
    assert lab.run(joins=True).counts == {"waiting": 4}
    store_at(lab.runs, lab.plan).enqueue()
    assert lab.run(joins=True).counts == {"done": 4}
    sizes = [
        next(c.config.model.dim for c in lab.plan.cells if c.config_hash == config_hash) for config_hash in lab.trained
    ]
    assert sizes == [16, 16, 8, 8]


def test_the_table_so_far_is_on_the_study_s_run(lab: Lab, tiny_study: Any) -> None:
    lab.plan = make_plan(*tiny_study(seeds=[0, 1]))
    values = iter([0.1, 0.2, 0.3, 0.4, 0.3, 0.2])

    def behaviour(config: TrialConfig) -> TrialResult:
        if config == lab.plan.cells[0].config:
            raise RuntimeError("planted")
        metrics = RESULT.metrics | {"val/loss_ema": next(values, 0.5)}
        return replace(RESULT, metrics=metrics)

    lab.behaviour = behaviour
    lab.run()
    client = MlflowClient(f"sqlite:///{lab.runs / 'mlflow.db'}")
    parent = lab.cell_runs()[0].data.tags["mlflow.parentRunId"]
    path = Path(client.download_artifacts(parent, "table.md"))
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in path.read_text().splitlines()]
    assert rows[0][2:] == ["cells", "val/loss_ema mean", "val/loss_ema std"]
    assert rows[2:4] == [
        ["division", "8", "1 failed, 1 done", "0.4000", "nan"],
        ["division", "16", "2 done", "0.2000", "0.1414"],
    ]


def test_a_changed_objective_is_refused(lab: Lab, tiny_study: Any) -> None:
    lab.run()
    lab.plan = make_plan(*tiny_study(objectives=[{"metric": "val/loss_raw"}]))
    with pytest.raises(StudyError, match=r"study\.objectives was \['val/loss_ema'\] and is"):
        lab.run()


def test_a_record_of_another_configuration_is_not_taken_over_and_one_that_diverged_is(lab: Lab) -> None:
    lab.run()
    (lab.runs / "optuna.db").unlink()
    folders = [lab.runs / "tiny" / cell.config_hash for cell in lab.plan.cells]
    shutil.copy(folders[0] / "result.json", folders[1] / "result.json")
    result = {**lab.record(2)["result"], "status": "diverged", "error": "the training loss is nan at step 3"}
    (folders[2] / "result.json").write_text(json.dumps(lab.record(2) | {"status": "diverged", "result": result}))
    assert lab.run().counts == {"done": 3, "diverged": 1}
    assert lab.trained[4:] == [lab.plan.cells[1].config_hash]


def test_a_changed_budget_of_the_study_is_refused(lab: Lab, tiny_study: Any) -> None:
    lab.plan = make_plan(*tiny_study(budget={"unit": "tokens", "amount": 4096}))
    assert {cell.config.trainer.max_images for cell in lab.plan.cells} == {64}
    lab.run()
    lab.plan = make_plan(*tiny_study(budget={"unit": "tokens", "amount": 8192}))
    with pytest.raises(StudyError, match=r"study\.budget\.amount was 4096\.0 and is 8192\.0"):
        lab.run()


def test_a_study_has_one_run_however_often_it_goes_on(lab: Lab, tiny_study: Any) -> None:
    lab.run()
    lab.plan = make_plan(*tiny_study(seeds=[0, 1]))
    lab.run()
    client = MlflowClient(f"sqlite:///{lab.runs / 'mlflow.db'}")
    (run,) = client.search_runs([lab.cell_runs()[0].info.experiment_id], f"tags.`{KIND}` = 'study'")
    assert json.loads(run.data.tags[STUDY])["seeds"] == [0, 1]
    assert run.data.metrics["cells/done"] == 8


def test_what_is_slower_than_the_budget_is_said_once_at_the_start(tiny_study: Any, tmp_path: Path) -> None:
    config, base = tiny_study()
    base["optimizer"]["warmup_images"] = 128
    lab = Lab(plan=make_plan(config, base), runs=tmp_path / "runs")
    (sentence,) = lab.plan.cautions()
    lab.behaviour = lambda config: replace(RESULT, problems=(sentence,))
    lab.run()
    assert lab.lines.count(sentence) == 1
    lab.run()
    assert lab.lines.count(sentence) == 1


def test_two_runs_that_name_one_data_set_at_once_fail_no_cell(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database server refuses the second row of one data set."""
    log, refused = MlflowClient.log_inputs, list[str]()

    def race(client: MlflowClient, run_id: str, *arguments: Any) -> None:
        if not refused:
            refused.append(run_id)
            raise MlflowException('duplicate key value violates unique constraint "dataset_pk"')
        log(client, run_id, *arguments)

    monkeypatch.setattr(MlflowClient, "log_inputs", race)
    summary = lab.run()
    assert summary.failures == {}
    assert [len(run.inputs.dataset_inputs) for run in lab.cell_runs() if run.info.run_id in refused] == [1]
