"""Curves of many runs from an MLflow store: some queries for all of them, not a call for each.

MLflow's client reads one run's one metric at a time. A database is asked directly, a server by the route that its own
UI uses for many runs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lina_lab.util.compat.mlflow import as_logged, points_of_database, points_of_server

from .errors import StoreError

RUNS_A_QUERY = 10_000
"""Few queries: a database may read all points of a metric for each."""
RUNS_A_REQUEST = 20
POINTS_A_REQUEST = 25_000
"""A server returns at most this many."""
COLUMNS = ["run", "metric", "images", "value"]


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
    read = _from_server if uri.startswith("http") else _from_database
    points = read(uri, run_ids, metrics)
    return points.assign(value=as_logged(points["value"]))


def _from_database(uri: str, run_ids: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    parts = [*points_of_database(uri, run_ids, metrics, runs_a_query=RUNS_A_QUERY)] or [(np.array([], int),) * 4]
    run, metric, images, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    # Stable, so that a run's points at equal images stay as they were logged.
    order = np.lexsort((images, metric, run))
    names: list[Any] = [
        pd.Categorical.from_codes(codes[order], dtype=pd.CategoricalDtype(list(known)))
        for codes, known in ((run, run_ids), (metric, metrics))
    ]
    columns = zip(COLUMNS, [*names, images[order], values[order].astype(float)], strict=True)
    return pd.DataFrame(dict(columns))


def _from_server(uri: str, run_ids: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    starts = range(0, len(run_ids), RUNS_A_REQUEST)
    parts = [_asked(uri, list(run_ids[at : at + RUNS_A_REQUEST]), metric) for metric in metrics for at in starts]
    kinds: dict[str, Any] = {"run": pd.CategoricalDtype(list(run_ids)), "metric": pd.CategoricalDtype(list(metrics))}
    none = pd.DataFrame(columns=COLUMNS)
    return pd.concat([none, *parts], ignore_index=True).astype({**kinds, "images": "int64", "value": "float64"})


def _asked(uri: str, run_ids: list[str], metric: str) -> pd.DataFrame:
    """One request; where its answer may have been cut, two of half as many runs."""
    try:
        points = points_of_server(uri, run_ids, metric, most=POINTS_A_REQUEST)
    except (OSError, KeyError) as error:
        raise StoreError(f"the tracking server does not give the curves: {error}") from error
    if len(points) >= POINTS_A_REQUEST:
        if len(run_ids) == 1:
            raise StoreError(f"a run has more than {POINTS_A_REQUEST:,} points of {metric}: read its store's database")
        middle = len(run_ids) // 2
        return pd.concat([_asked(uri, half, metric) for half in (run_ids[:middle], run_ids[middle:])])
    return pd.DataFrame(points, columns=COLUMNS)
