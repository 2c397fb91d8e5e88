"""MLflow 3.17: making its tables, and the curves of many runs at once.

Public: `MlflowClient.get_metric_history`, which reads one metric of one run. Missing: to make the tables of a store
without a request, and to read a metric of thousands of runs.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import requests
from sqlalchemy import Engine, bindparam, create_engine, text

ROWS_AT_ONCE = 200_000
SECONDS = 60
"""How long a server may take to answer."""
QUERY = (
    "SELECT run_uuid AS run, key AS metric, step AS images, value, is_nan FROM metrics "
    "WHERE run_uuid IN :runs AND key IN :metrics ORDER BY run_uuid, key, step, timestamp"
)


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
