"""MLflow 3.17: making its tables, and thousands of runs and their curves at once.

Public: `MlflowClient.search_runs`, which makes a dozen objects for each tag, and `get_metric_history`, which reads one
metric of one run. Missing: to make the tables of a store without a request, and to read thousands of runs in seconds.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import requests
from sqlalchemy import Engine, bindparam, create_engine, text

if TYPE_CHECKING:
    from mlflow.entities import Run

ROWS_AT_ONCE = 200_000
SECONDS = 60
"""How long a server may take to answer."""
QUERY = (
    "SELECT run_uuid AS run, key AS metric, step AS images, value, is_nan FROM metrics "
    "WHERE run_uuid IN :runs AND key IN :metrics ORDER BY run_uuid, key, step, timestamp"
)

RUNS = (
    "SELECT run_uuid, user_id, status, start_time, end_time, artifact_uri, name FROM runs WHERE "
    "experiment_id = :experiment AND lifecycle_stage = :stage AND run_uuid IN (SELECT run_uuid FROM tags WHERE "
    "key = :tag AND value = :value) ORDER BY start_time DESC, run_uuid"
)
OF_RUN = {
    "tags": "SELECT key, value FROM tags WHERE run_uuid = :run",
    "params": "SELECT key, value FROM params WHERE run_uuid = :run",
    "metrics": "SELECT key, value, timestamp, step, is_nan FROM latest_metrics WHERE run_uuid = :run",
}


def runs_of_database(uri: str, experiment: str, tag: str, value: str) -> "Iterator[Run]":
    """All runs of an experiment with a tag, as `MlflowClient.search_runs` returns them, the newest first."""
    from mlflow.entities import LifecycleStage, Metric, Param, Run, RunData, RunInfo, RunTag

    engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            wanted = {"experiment": int(experiment), "stage": LifecycleStage.ACTIVE, "tag": tag, "value": value}
            queries = {name: text(query) for name, query in OF_RUN.items()}
            for run, user, status, start, end, artifacts, name in connection.execute(text(RUNS), wanted).all():
                rows = {table: connection.execute(query, {"run": run}).all() for table, query in queries.items()}
                # MLflow writes 0 and a mark for what a database may not hold.
                last = [Metric(key, np.nan if nan else v, at, step) for key, v, at, step, nan in rows["metrics"]]  # type: ignore[no-untyped-call]
                params = [Param(*row) for row in rows["params"]]  # type: ignore[no-untyped-call]
                tags = [RunTag(*row) for row in rows["tags"]]  # type: ignore[no-untyped-call]
                stage, place = LifecycleStage.ACTIVE, (artifacts, name)
                info = RunInfo(run, experiment, user, status, start, end, stage, *place)
                yield Run(info, RunData(last, params, tags))
    finally:
        engine.dispose()


def make_tables(url: str, artifacts: str) -> Engine:
    """Make the tables of a store at a URL (`SqlAlchemyStore`, which does so when it is made)."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    engine: Engine = SqlAlchemyStore(url, artifacts).engine  # type: ignore[no-untyped-call]
    return engine


def points_of_database(
    uri: str, run_ids: Sequence[str], metrics: Sequence[str], *, runs_a_query: int
) -> Iterator[tuple[Sequence[str], Sequence[str], Sequence[int], np.ndarray[Any, np.dtype[np.float64]]]]:
    """All points of some metrics of some runs, from the table `metrics`.

    Yields columns of many points: run, metric, step, value; a value that is not a number is NaN.
    """
    query = text(QUERY).bindparams(bindparam("runs", expanding=True), bindparam("metrics", expanding=True))
    engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            for start in range(0, len(run_ids), runs_a_query):
                names = {"runs": list(run_ids[start : start + runs_a_query]), "metrics": list(metrics)}
                found = connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query, names)
                for rows in found.partitions(ROWS_AT_ONCE):
                    run, metric, step, value, is_nan = zip(*rows, strict=True)
                    # MLflow writes 0 and a mark for what a database may not hold.
                    yield run, metric, step, np.where(np.array(is_nan, dtype=bool), np.nan, np.array(value, float))
    finally:
        engine.dispose()


def points_of_server(uri: str, run_ids: Sequence[str], metric: str, *, most: int) -> list[tuple[str, str, int, float]]:
    """A metric's points of a few runs, by the route of MLflow's own UI (`get-history-bulk`): run, metric, step, value.

    Args:
        uri: the server.
        run_ids: the runs.
        metric: the metric's name.
        most: points in an answer, of which MLflow gives 25,000 at most; one that has as many may be cut.

    Raises:
        requests.RequestException, KeyError: the server does not answer, or not with points.
    """
    asked: dict[str, str | int | list[str]] = {"run_id": list(run_ids), "metric_key": metric, "max_results": most}
    url = f"{uri.rstrip('/')}/ajax-api/2.0/mlflow/metrics/get-history-bulk"
    answer = requests.get(url, params=asked, timeout=SECONDS)
    answer.raise_for_status()
    return [(p["run_id"], p["key"], int(p["step"]), float(p["value"])) for p in answer.json()["metrics"]]
