"""Metrics reach MLflow in batches, and none is lost."""

from pathlib import Path

from mlflow import MlflowClient

from lina_lab.records.curve import read_curve
from lina_lab.records.runstore import TrackingRun
from lina_lab.training.mlflow_buffer import MAX_BATCH
from lina_lab.training.mlflow_logger import BufferedMLflowLogger


def test_more_than_a_request_takes_arrive_at_their_steps(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("one")).info.run_id
    logger = BufferedMLflowLogger(TrackingRun(uri=uri, run_id=run), tmp_path)
    for step in range(700):
        logger.log_metrics({"a": float(step), "b": -float(step), "epoch": 0.0}, step)
    assert 0 < len(client.get_metric_history(run, "a")) < 700
    logger.finalize()
    for name, sign in (("a", 1), ("b", -1)):
        history = client.get_metric_history(run, name)
        assert [(point.step, point.value) for point in history] == [(step, sign * step) for step in range(700)]
    assert client.get_metric_history(run, "epoch") == []
    assert client.get_run(run).info.status == "RUNNING"
    assert MAX_BATCH == 1000


def test_a_trial_keeps_its_curve_each_step_once_however_often_it_is_killed(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    run = TrackingRun(uri=uri, run_id=client.create_run(client.create_experiment("one")).info.run_id)
    first = BufferedMLflowLogger(run, tmp_path)
    for step in range(3):
        first.log_metrics({"a": float(step)}, step)
    waiting = first.kept()  # a checkpoint
    first.log_metrics({"a": 3.0}, 3)
    first.flush()
    with (tmp_path / "curve.jsonl").open("ab") as file:
        file.write(b'["a", 4.0, ')  # killed
    second = BufferedMLflowLogger(run, tmp_path)
    second.resume(waiting)
    for step in range(3, 6):
        second.log_metrics({"a": float(step)}, step)
    second.finalize()
    kept = read_curve(tmp_path)
    assert kept is not None
    assert [(name, value, step) for name, value, step, _ in kept] == [("a", float(step), step) for step in range(6)]
    assert [point.step for point in client.get_metric_history(run.run_id, "a")] == list(range(6))


def test_a_trial_that_an_earlier_version_began_keeps_no_curve_that_would_pass_for_whole(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    run = TrackingRun(uri=uri, run_id=client.create_run(client.create_experiment("one")).info.run_id)
    (tmp_path / "step-00000005.ckpt").touch()  # from which the trial is resumed
    logger = BufferedMLflowLogger(run, tmp_path)
    logger.resume([])
    logger.log_metrics({"a": 1.0}, 5)
    logger.finalize()
    assert read_curve(tmp_path) is None
    assert [point.step for point in client.get_metric_history(run.run_id, "a")] == [5]
