"""Metrics reach MLflow in batches, and none is lost."""

from pathlib import Path

from mlflow import MlflowClient

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
