"""Curves of many runs from an MLflow store: some queries for all of them, not a call for each.

MLflow's client reads one run's one metric at a time. A database is asked directly, a server by the route that its own
UI uses for many runs.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import requests
from sqlalchemy import bindparam, create_engine, text

from .errors import StoreError

RUNS_A_QUERY = 10_000
"""Few queries: a database may go over all points of a metric for each."""
ROWS_AT_ONCE = 200_000
RUNS_A_REQUEST = 20
POINTS_A_REQUEST = 25_000
"""A server answers with no more."""
SECONDS = 60
COLUMNS = ["run", "metric", "images", "value"]
QUERY = (
    "SELECT run_uuid AS run, key AS metric, step AS images, value, is_nan FROM metrics "
    "WHERE run_uuid IN :runs AND key IN :metrics ORDER BY run_uuid, key, step, timestamp"
)


def read_histories(uri: str, run_ids: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """All points of some metrics of some runs.

    Args:
        uri: the tracking store, a database or a server.
        run_ids: the runs.
        metrics: names of the metrics.

    Returns:
        Columns `run` and `metric` (categories), `images` (the step), `value`; a value that is not a number is NaN.

    Raises:
        StoreError: the server does not answer, or not with what was asked for.
    """
    parts = _from_server(uri, run_ids, metrics) if uri.startswith("http") else _from_database(uri, run_ids, metrics)
    kinds: dict[str, Any] = {"run": pd.CategoricalDtype(list(run_ids)), "metric": pd.CategoricalDtype(list(metrics))}
    none = pd.DataFrame(columns=COLUMNS).astype({**kinds, "images": "int64", "value": "float64"})
    compact: list[pd.DataFrame] = [none, *(part.astype(kinds) for part in parts)]
    return pd.concat(compact, ignore_index=True)


def _from_database(uri: str, run_ids: Sequence[str], metrics: Sequence[str]) -> Iterator[pd.DataFrame]:
    query = text(QUERY).bindparams(bindparam("runs", expanding=True), bindparam("metrics", expanding=True))
    engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            for start in range(0, len(run_ids), RUNS_A_QUERY):
                names = {"runs": list(run_ids[start : start + RUNS_A_QUERY]), "metrics": list(metrics)}
                found = connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query, names)
                for rows in found.partitions(ROWS_AT_ONCE):
                    run, metric, images, value, is_nan = zip(*rows, strict=True)
                    # MLflow writes 0 and a mark for what a database may not hold.
                    values = np.where(np.array(is_nan, dtype=bool), np.nan, np.array(value, dtype=float))
                    yield pd.DataFrame({"run": run, "metric": metric, "images": images, "value": values})
    finally:
        engine.dispose()


def _from_server(uri: str, run_ids: Sequence[str], metrics: Sequence[str]) -> Iterator[pd.DataFrame]:
    url = f"{uri.rstrip('/')}/ajax-api/2.0/mlflow/metrics/get-history-bulk"
    for metric in metrics:
        for start in range(0, len(run_ids), RUNS_A_REQUEST):
            yield _asked(url, list(run_ids[start : start + RUNS_A_REQUEST]), metric)


def _asked(url: str, run_ids: list[str], metric: str) -> pd.DataFrame:
    """One request; where its answer may have been cut, two of half as many runs."""
    given: dict[str, str | int | list[str]] = {
        "run_id": run_ids,
        "metric_key": metric,
        "max_results": POINTS_A_REQUEST,
    }
    try:
        answer = requests.get(url, params=given, timeout=SECONDS)
        answer.raise_for_status()
        points = answer.json()["metrics"]
    except (requests.RequestException, KeyError) as error:
        raise StoreError(f"the tracking server does not give the curves: {error}") from error
    if len(points) >= POINTS_A_REQUEST:
        if len(run_ids) == 1:
            raise StoreError(f"a run has more than {POINTS_A_REQUEST:,} points of {metric}: read its store's database")
        middle = len(run_ids) // 2
        return pd.concat([_asked(url, half, metric) for half in (run_ids[:middle], run_ids[middle:])])
    rows = [(p["run_id"], p["key"], int(p["step"]), float(p["value"])) for p in points]
    return pd.DataFrame(rows, columns=COLUMNS)
