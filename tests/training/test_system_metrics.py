"""MLflow's system metrics on request."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient

from lina_lab.config import ResourcesConfig, TrialConfig
from lina_lab.config.extras import missing_package
from lina_lab.records.runstore import TrackingRun
from lina_lab.training import system_metrics as module
from lina_lab.training.system_metrics import system_metrics
from lina_lab.training.trial import run_trial

Tiny = Callable[..., TrialConfig]
ONE = ResourcesConfig()


@pytest.fixture
def tracking(tmp_path: Path) -> TrackingRun:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    return TrackingRun(uri=uri, run_id=client.create_run(client.create_experiment("one")).info.run_id)


def sent(run: TrackingRun) -> set[str]:
    return {name for name in MlflowClient(run.uri).get_run(run.run_id).data.metrics if name.startswith("system/")}


def wait_for_some(run: TrackingRun) -> set[str]:
    deadline = time.monotonic() + 60
    while not (found := sent(run)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]


def rank(local: int) -> Any:
    return SimpleNamespace(local_rank=local)


def test_they_are_sent_while_a_trial_runs_change_no_number_and_are_not_hashed(
    tiny: Tiny, tmp_path: Path, tracking: TrackingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(trainer={"max_images": 1600, "val_every_images": 1600, "system_metrics_seconds": 0.05})
    plain = tiny(trainer={"max_images": 1600, "val_every_images": 1600})
    assert config.config_hash() == plain.config_hash()
    for name in ("watched", "plain"):
        (tmp_path / name).mkdir()
    watched = run_trial(config, tmp_path / "watched", tracking=tracking)
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= sent(tracking)
    assert threads() == []
    assert watched.metrics == run_trial(plain, tmp_path / "plain").metrics
    monkeypatch.setattr("lina_lab.config.extras.find_spec", lambda name: None)
    assert missing_package(plain) is None
    assert missing_package(config) == "trainer.system_metrics_seconds needs the package psutil: pip install psutil"


def test_they_end_with_a_fault(tracking: TrackingRun) -> None:
    @system_metrics(0.05, tracking, ONE, rank(0))
    def interrupted() -> None:
        wait_for_some(tracking)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert threads() == []


def test_one_process_of_each_machine_sends_them_under_the_machine_s_name(tracking: TrackingRun) -> None:
    with system_metrics(0.05, tracking, ResourcesConfig(nodes=2), rank(1)):
        assert threads() == []
    with system_metrics(0.05, tracking, ResourcesConfig(nodes=2), rank(0)):
        found = wait_for_some(tracking)
    assert {name.split("/")[1] for name in found} == {socket.gethostname()}


def test_they_go_on_when_a_store_that_was_away_is_back(tracking: TrackingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.05)
    get, asked = MlflowClient.get_run, []

    def away_at_first(client: MlflowClient, run_id: str) -> Any:
        if threading.current_thread().name == "SystemMetricsMonitor":
            asked.append(run_id)
            if len(asked) == 1:
                raise ConnectionError("away")
        return get(client, run_id)

    monkeypatch.setattr(MlflowClient, "get_run", away_at_first)
    with system_metrics(0.05, tracking, ONE, rank(0)):
        wait_for_some(tracking)
    assert len(asked) > 1
