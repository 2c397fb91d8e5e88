"""MLflow 3.17: making its tables, and thousands of runs and their curves at once.

Public: `MlflowClient.search_runs`, which makes a dozen objects for each tag, and `get_metric_history`, which reads one
metric of one run. Missing: to make the tables of a store without a request, to read thousands of runs in seconds, and
to move a store.
"""

import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from urllib.parse import unquote

import numpy as np
from sqlalchemy import Connection, Engine, bindparam, create_engine, inspect, text
from sqlalchemy.exc import DatabaseError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

ACTIVE = "active"
"""Stage of runs and experiments that are not deleted (`mlflow.entities.LifecycleStage`)."""
ROWS_AT_ONCE = 200_000
PAGE = 1000
"""Runs in a server's answer."""
SECONDS = 60
"""How long a server may take to answer."""
# The order is that of the table's primary key, so that a database need not sort.
POINTS = (
    "SELECT run_uuid, step, value, is_nan FROM metrics WHERE key = :metric AND run_uuid IN :runs "
    "ORDER BY timestamp, step"
)
CHOSEN = (
    "experiment_id = :experiment AND lifecycle_stage = :stage AND run_uuid IN (SELECT run_uuid FROM tags WHERE "
    "key = :tag AND value = :value)"
)
TAGS = (
    "SELECT t.run_uuid, t.key, t.value FROM tags t JOIN runs r ON r.run_uuid = t.run_uuid JOIN experiments e ON "
    "e.experiment_id = r.experiment_id WHERE e.name = :name AND e.lifecycle_stage = 'active' AND "
    "r.lifecycle_stage = 'active' AND t.key IN :tags ORDER BY r.start_time"
)
ARTIFACTS = "mlartifacts"
"""Folder of a store's files, beside its database."""
RUN_ADDRESS = ("runs", "run_uuid", "artifact_uri")
RUNS = (
    f"SELECT run_uuid, user_id, status, start_time, end_time, artifact_uri, name FROM runs WHERE {CHOSEN} "
    "ORDER BY start_time DESC, run_uuid"
)
OF_RUNS = {
    "tags": "SELECT run_uuid, key, value FROM tags",
    "params": "SELECT run_uuid, key, value FROM params",
    "metrics": "SELECT run_uuid, key, value, is_nan FROM latest_metrics",
}
"""What belongs to runs, a query for all of them."""
WITHOUT = "run_uuid NOT IN (SELECT run_uuid FROM tags WHERE key = :unless)"


LARGEST = float(np.finfo(np.float64).max)


def as_logged(values: "np.typing.ArrayLike") -> np.ndarray[Any, np.dtype[np.float64]]:
    """The values that were logged, from those that MLflow gives back: it writes infinity as the largest number."""
    given = np.asarray(values, dtype=np.float64)
    return np.where(np.abs(given) >= LARGEST, np.copysign(np.inf, given), given)


def runs_of_database(uri: str, experiment: str, tag: str, value: str, *, no_params_with: str = "") -> "Iterator[Run]":
    """All runs of an experiment with a tag, the newest first, without MLflow, which takes seconds to import.

    They have the fields of `mlflow.entities.Run`, as `MlflowClient.search_runs` gives them.

    Args:
        uri: the database.
        experiment: the experiment's id.
        tag: name of the tag.
        value: its value.
        no_params_with: runs that have a tag of this name come without parameters, which are most of the rows.
    """
    wanted = {"experiment": int(experiment), "stage": ACTIVE, "tag": tag, "value": value, "unless": no_params_with}
    engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            found = connection.execute(text(RUNS), wanted).all()
            rows = {table: _by_run(connection, table, query, wanted) for table, query in OF_RUNS.items()}
    finally:
        engine.dispose()
    for run, user, status, start, end, artifacts, name in found:
        # MLflow writes 0 and a mark for what a database may not hold.
        last = {key: np.nan if nan else v for key, v, nan in rows["metrics"][run]}
        info = SimpleNamespace(
            run_id=run,
            run_name=name,
            experiment_id=experiment,
            user_id=user,
            status=status,
            start_time=start,
            end_time=end,
            lifecycle_stage=ACTIVE,
            artifact_uri=artifacts,
        )
        data = SimpleNamespace(metrics=last, params=dict(rows["params"][run]), tags=dict(rows["tags"][run]))
        yield cast("Run", SimpleNamespace(info=info, data=data))


def experiments_of_database(uri: str) -> dict[str, str]:
    """Name -> id of each experiment that is not deleted, without MLflow."""
    engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table("experiments"):
                return {}
            query = text("SELECT name, experiment_id FROM experiments WHERE lifecycle_stage = :stage")
            return {name: str(number) for name, number in connection.execute(query, {"stage": ACTIVE})}
    finally:
        engine.dispose()


def store_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """What a store raises that cannot be read, and others. An `except` clause imports MLflow so only after an error."""
    from mlflow.exceptions import MlflowException

    return MlflowException, DatabaseError, *others


def _by_run(connection: Connection, table: str, query: str, wanted: dict[str, Any]) -> dict[str, list[Any]]:
    query += f" WHERE run_uuid IN (SELECT run_uuid FROM runs WHERE {CHOSEN})"
    found = connection.execute(text(f"{query} AND {WITHOUT}" if table == "params" else query), wanted)
    rows: dict[str, list[Any]] = defaultdict(list)
    for run, *row in found:
        rows[run].append(row)
    return rows


def tags_of_database(uri: str, experiment: str, tags: Sequence[str]) -> list[dict[str, str]]:
    """Some tags of each run of an experiment that exists and is not deleted, without MLflow, which takes seconds.

    Args:
        uri: the database.
        experiment: its name; without it, or without MLflow's tables, there are no runs.
        tags: names of the tags.
    """
    query = text(TAGS).bindparams(bindparam("tags", list(tags), expanding=True))
    engine, found = create_engine(uri), defaultdict[str, dict[str, str]](dict)
    try:
        with engine.connect() as connection:
            if inspect(connection).has_table("experiments"):
                for run, key, value in connection.execute(query, {"name": experiment}):
                    found[run][key] = value
    finally:
        engine.dispose()
    return list(found.values())


def tags_of_server(uri: str, experiment: str, tags: Sequence[str]) -> list[dict[str, str]]:
    """`tags_of_database` for a server.

    Raises:
        MlflowException: the server does not answer.
    """
    from mlflow import MlflowClient
    from mlflow.entities import LifecycleStage

    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None or found.lifecycle_stage != LifecycleStage.ACTIVE:
        return []
    runs = runs_of_client(client, found.experiment_id)
    return [{name: run.data.tags[name] for name in tags if name in run.data.tags} for run in runs]


def runs_of_client(client: "MlflowClient", experiment: str, wanted: str = "") -> "list[Run]":
    """All runs of an experiment, each once, the newest first, whatever others start or delete meanwhile.

    MLflow's pages are offsets into a list: a run that starts meanwhile shifts the newest-first list, which repeats a
    run, and one that is deleted shifts any list, which leaves one out. So each page here begins at the last known start
    time.

    Args:
        client: of a server or a database.
        experiment: the experiment's id.
        wanted: a filter in MLflow's language; empty: every run.
    """
    found: dict[str, Run] = {}
    since, token = 0, None
    while True:
        known = f"{wanted} and " if wanted else ""
        page = client.search_runs(
            [experiment],
            f"{known}attributes.start_time >= {since}",
            max_results=PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        found |= {run.info.run_id: run for run in page}
        if not page.token:
            return sorted(found.values(), key=lambda run: (-run.info.start_time, run.info.run_id))
        latest = page[-1].info.start_time
        # A whole page that started in one millisecond has no later time to go on from.
        since, token = (latest, None) if latest > since else (since, page.token)


def make_tables(url: str, artifacts: str) -> Engine:
    """Make the tables of a store at a URL (`SqlAlchemyStore`, which does so when it is made)."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    engine: Engine = SqlAlchemyStore(url, artifacts).engine  # type: ignore[no-untyped-call]
    return engine


def points_of_database(
    uri: str, run_ids: Sequence[str], metrics: Sequence[str], *, runs_a_query: int
) -> Iterator[tuple[Array, Array, Array, Array]]:
    """All points of some metrics of some runs, from the table `metrics`, in the order in which they were logged.

    Yields columns of many points: index of the run, index of the metric, step, value; a value that is not a number is
    NaN.
    """
    query = text(POINTS).bindparams(bindparam("runs", expanding=True))
    known = {name: index for index, name in enumerate(run_ids)}
    engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            for start, (number, metric) in product(range(0, len(run_ids), runs_a_query), enumerate(metrics)):
                wanted = {"runs": list(run_ids[start : start + runs_a_query]), "metric": metric}
                found = connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query, wanted)
                for rows in found.partitions(ROWS_AT_ONCE):
                    run, step, value, is_nan = zip(*rows, strict=True)
                    count = len(rows)
                    values = np.fromiter(value, float, count)
                    # MLflow writes 0 and a mark for what a database may not hold.
                    values[np.fromiter(is_nan, bool, count)] = np.nan
                    runs = np.fromiter(map(known.__getitem__, run), np.int32, count)
                    yield runs, np.full(count, number, np.int32), np.fromiter(step, np.int64, count), values
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
        OSError, KeyError: the server does not answer, or not with points.
    """
    import requests

    asked: dict[str, str | int | list[str]] = {"run_id": list(run_ids), "metric_key": metric, "max_results": most}
    url = f"{uri.rstrip('/')}/ajax-api/2.0/mlflow/metrics/get-history-bulk"
    answer = requests.get(url, params=asked, timeout=SECONDS)
    answer.raise_for_status()
    return [(p["run_id"], p["key"], int(p["step"]), float(p["value"])) for p in answer.json()["metrics"]]


def relocate_artifacts(database: Path) -> None:
    """Point a store's experiments and runs at the folder of artifacts beside it, if both were moved or copied.

    MLflow writes absolute addresses into its tables (`experiments.artifact_location`, `runs.artifact_uri`) and has no
    call that changes them. Addresses elsewhere, such as those of a bucket, stay.

    Args:
        database: `mlflow.db` in a folder of runs.
    """
    artifacts = database.resolve().parent / ARTIFACTS
    with closing(sqlite3.connect(database, timeout=SECONDS)) as connection, connection:
        for table, key, column in (("experiments", "experiment_id", "artifact_location"), RUN_ADDRESS):
            rows = connection.execute(f"SELECT {key}, {column} FROM {table}").fetchall()
            moved = [(new, row) for row, old in rows if (new := _relocated(old, artifacts)) not in (None, old)]
            connection.executemany(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", moved)


def artifact_file(uri: str, run_id: str, name: str, database: Path | None, scratch: Path) -> Path | None:
    """Find an artifact of a run, where a store was moved too; None: the run has none of this name.

    Args:
        uri: the store.
        run_id: the run.
        name: the artifact.
        database: the store's file, beside which moved artifacts are; None: it is a server or another database.
        scratch: folder for a file that has to be downloaded.

    Raises:
        MlflowException, OSError: the artifacts cannot be read.
    """
    if database is None:
        address = _client(uri).get_run(run_id).info.artifact_uri
    else:
        with closing(sqlite3.connect(database, timeout=SECONDS)) as connection:
            query = f"SELECT {RUN_ADDRESS[2]} FROM runs WHERE run_uuid = ?"
            (address,) = connection.execute(query, (run_id,)).fetchone()
        address = _relocated(address, database.resolve().parent / ARTIFACTS) or address
    if re.match(r"(file://)?/", address):
        path = Path(unquote(address.removeprefix("file://"))) / name
        if path.is_file() or database is not None:
            return path if path.is_file() else None
    if name not in {file.path for file in _client(uri).list_artifacts(run_id)}:
        return None
    return Path(_client(uri).download_artifacts(run_id, name, str(scratch)))


@cache
def _client(uri: str) -> "MlflowClient":
    from mlflow import MlflowClient

    return MlflowClient(uri)


@cache
def _is_same(place: str, artifacts: Path) -> bool:
    """Whether an address is another name of the folder, as where it is mounted twice."""
    path = Path(unquote(place.removeprefix("file://")))
    return path.exists() and artifacts.exists() and path.samefile(artifacts)


def _relocated(address: str | None, artifacts: Path) -> str | None:
    """An address below the folder of artifacts as it is now; None: it is no such address, or it holds still."""
    found = re.fullmatch(rf"((?:file://)?/(?:.*/)?{ARTIFACTS})(/.*)?", address or "")
    if found is None or _is_same(found[1], artifacts):
        return None
    here = artifacts.as_uri() if found[1].startswith("file:") else str(artifacts)
    return here + (found[2] or "")
