"""A tracking store is read as it was written, also while others write to it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lina_lab.analysis.load.cells import cell_rows
from lina_lab.analysis.load.foreign_store import read_store
from lina_lab.analysis.load.history import read_histories
from mlflow import MlflowClient
from mlflow.entities import Metric

from benchmarks.report import ReportBenchConfig, make_store
from lina_lab.util.compat import mlflow as reading
from lina_lab.util.compat.mlflow import runs_of_client, tags_of_database, tags_of_server


class Busy(MlflowClient):
    """A client of a store to which others write between its pages."""

    def __init__(self, uri: str, others: Callable[[MlflowClient], object]) -> None:
        super().__init__(uri)
        self.others = others

    def search_runs(self, *arguments: Any, **keywords: Any) -> Any:
        found = super().search_runs(*arguments, **keywords)
        self.others(MlflowClient(self.tracking_uri))
        return found


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def experiment(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Eight runs, some of which started in the same millisecond, in pages of three."""
    monkeypatch.setattr(reading, "PAGE", 3)
    client = MlflowClient(uri)
    found: str = client.create_experiment("x", (tmp_path / "artifacts").as_uri())
    for start in (1, 2, 3, 3, 3, 3, 3, 4):
        client.create_run(found, start_time=start, tags={"kind": "cell"})
    return found


@pytest.mark.parametrize("change", ["start", "delete"])
def test_a_run_that_starts_or_is_deleted_meanwhile_repeats_none_and_leaves_none_out(
    uri: str, experiment: str, change: str
) -> None:
    before = MlflowClient(uri).search_runs([experiment])
    order = [run.info.run_id for run in before]
    doomed = [run.info.run_id for run in reversed(before)][:2]

    def others(client: MlflowClient) -> None:
        if change == "start":
            client.create_run(experiment, tags={"kind": "cell"})
        elif doomed:
            client.delete_run(doomed.pop())

    found = [run.info.run_id for run in runs_of_client(Busy(uri, others), experiment, "tags.`kind` = 'cell'")]
    assert len(found) == len(set(found))
    lasting = order if change == "start" else order[:-2]
    assert [run_id for run_id in found if run_id in lasting] == lasting


def test_a_study_s_tags_are_the_same_from_a_database_and_from_its_client(uri: str, experiment: str) -> None:
    client = MlflowClient(uri)
    for index, run in enumerate(client.search_runs([experiment])):
        client.set_tag(run.info.run_id, "cell", str(index))
    client.delete_run(client.search_runs([experiment])[0].info.run_id)
    quick = tags_of_database(uri, "x", ["cell", "absent"])
    assert sorted(quick, key=str) == sorted(tags_of_server(uri, "x", ["cell", "absent"]), key=str)
    assert len(quick) == 7
    assert tags_of_database(uri, "y", ["cell"]) == tags_of_server(uri, "y", ["cell"]) == []
    client.delete_experiment(experiment)
    assert tags_of_database(uri, "x", ["cell"]) == tags_of_server(uri, "x", ["cell"]) == []


def test_an_infinite_loss_is_read_as_infinite_and_is_no_result(tmp_path: Path) -> None:
    from lina_lab.analysis.load.runs import read_study

    make_store(ReportBenchConfig(cells=8, checkpoints=3, max_images=960), tmp_path)
    whole = read_study("planted", tmp_path)
    run, cell = whole_run(tmp_path), None
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.log_batch(run.info.run_id, [Metric("val/loss_ema", math.inf, 1, 961)])
    cell = cell_rows([client.get_run(run.info.run_id)], whole.study).iloc[0]
    assert cell["val/loss_ema"] == math.inf
    assert cell["reason"] == "it has no finite val/loss_ema, an objective of the study"
    points = read_histories(f"sqlite:///{tmp_path / 'mlflow.db'}", [run.info.run_id], ["val/loss_ema"])
    assert points["value"].iloc[-1] == math.inf
    assert points["value"].iloc[:-1].max() < 100


def whole_run(folder: Path) -> Any:
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiments = [e.experiment_id for e in client.search_experiments()]
    return client.search_runs(experiments, "tags.`lina.kind` = 'cell'")[0]


def test_an_infinite_loss_of_another_project_s_store_is_infinite(uri: str, experiment: str) -> None:
    client = MlflowClient(uri)
    for index, run in enumerate(client.search_runs([experiment])):
        for step in (1, 2):
            client.log_metric(run.info.run_id, "loss", math.inf if index == step == 1 else -math.inf, step=step)
        client.set_terminated(run.info.run_id)
    last, _ = read_store(uri, "x", ["metrics.loss"], checkpoints=False)
    assert set(last["metrics.loss"]) == {-math.inf}
    every, _ = read_store(uri, "x", ["metrics.loss"], checkpoints=True)
    assert sorted(every["metrics.loss"])[-1] == math.inf
