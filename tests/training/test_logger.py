"""Metrics reach MLflow in batches, and none is lost."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from lina_lab.training.logger import MAX_BATCH, BatchedMLFlowLogger


def test_more_than_a_request_takes_arrive_at_their_steps(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("one")).info.run_id
    logger = BatchedMLFlowLogger(uri, run)
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


def test_what_could_not_be_sent_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("one")).info.run_id
    logger = BatchedMLFlowLogger(uri, run)
    logger.log_metrics({"a": 1.0}, 1)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("gone")))
        with pytest.raises(ConnectionError):
            logger.flush()
    logger.flush()
    assert [point.value for point in client.get_metric_history(run, "a")] == [1.0]
