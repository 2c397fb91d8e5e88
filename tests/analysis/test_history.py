"""Curves of many runs, from a database and from a server."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from lina_lab.analysis.load import history
from lina_lab.analysis.load.errors import StoreError
from lina_lab.analysis.load.history import read_histories
from mlflow import MlflowClient
from mlflow.entities import Metric

from lina_lab.records.runstore import quiet_logs

Points = dict[tuple[str, str], list[tuple[int, float]]]


def as_points(table: Any) -> Points:
    found: Points = {}
    for row in table.to_dict("records"):
        found.setdefault((row["run"], row["metric"]), []).append((row["images"], row["value"]))
    return found


def test_a_database_gives_what_the_client_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in several queries; without other runs and other metrics; NaN as NaN."""
    quiet_logs()
    monkeypatch.setattr(history, "RUNS_A_QUERY", 2)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("x")
    runs = [client.create_run(experiment).info.run_id for _ in range(4)]
    for place, run in enumerate(runs):
        for name in ("train/loss", "val/loss_ema", "another"):
            points = [Metric(name, place + step / 10, 1000 + step, step) for step in range(3)]
            client.log_batch(run, [*points, Metric(name, float("nan"), 2000, 3)])
    names = ("train/loss", "val/loss_ema")
    table = read_histories(uri, runs[:3], names)
    assert len(table) == 3 * 2 * 4
    found = as_points(table.dropna())
    for run in runs[:3]:
        for name in names:
            expected = [(p.step, p.value) for p in client.get_metric_history(run, name) if p.value == p.value]
            assert found[(run, name)] == expected
    assert table["value"].isna().sum() == 6
    assert read_histories(uri, [], names).empty


class _Server(BaseHTTPRequestHandler):
    """Answers as MLflow's server does, with at most so many points."""

    asked: list[list[str]]
    answers = True

    def do_GET(self) -> None:
        query = parse_qs(urlparse(self.path).query)
        self.asked.append(query["run_id"])
        points = [
            {"key": query["metric_key"][0], "run_id": run, "step": step, "value": step / 2, "timestamp": 0}
            for run in query["run_id"]
            for step in range(6)
        ][: int(query["max_results"][0])]
        self.send_response(200 if self.answers else 500)
        self.end_headers()
        self.wfile.write(json.dumps({"metrics": points}).encode())

    def log_message(self, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    _Server.asked, _Server.answers = [], True
    made = HTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_address[1]}"
    made.shutdown()
    made.server_close()


def test_a_server_is_asked_for_many_runs_and_again_where_its_answer_was_cut(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "POINTS_A_REQUEST", 13)
    runs = [f"run{i}" for i in range(5)]
    found = as_points(read_histories(server, runs, ["train/loss"]))
    assert found == {(run, "train/loss"): [(step, step / 2) for step in range(6)] for run in runs}
    assert _Server.asked[0] == runs
    monkeypatch.setattr(history, "POINTS_A_REQUEST", 6)
    with pytest.raises(StoreError, match="a run has more than 6 points of train/loss"):
        read_histories(server, runs, ["train/loss"])


def test_a_server_that_does_not_answer_is_named(server: str) -> None:
    _Server.answers = False
    with pytest.raises(StoreError, match="the tracking server does not give the curves"):
        read_histories(server, ["a"], ["train/loss"])
