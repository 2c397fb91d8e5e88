"""Runs of an MLflow store that another project wrote, as a table: parameters, metrics and tags are its columns."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import DatabaseError

from lina_lab.records.runstore import quiet_logs
from lina_lab.util.compat.mlflow import as_logged, runs_of_client

from .errors import TableError

SQLITE = "sqlite:///"
KINDS = ("params.", "metrics.", "tags.")
RUN, STEP = "run", "step"
"""Columns of a run's id, and, for checkpoints, of MLflow's step."""
FINISHED = "FINISHED"


def read_store(
    uri: str, experiment: str, columns: Sequence[str], *, checkpoints: bool
) -> tuple[pd.DataFrame, list[str]]:
    """Read the finished runs of an experiment.

    Args:
        uri: MLflow's tracking URI.
        experiment: name of the experiment.
        columns: `params.NAME`, `metrics.NAME`, `tags.NAME` or `step`.
        checkpoints: a row for each step at which all metrics of a run were logged, in place of their last values.

    Returns:
        A table with the columns and `run`, its index named for messages, and a sentence for what was left out.

    Raises:
        TableError: there is no such store, experiment or column, or no run has finished.
    """
    for column in columns:
        if column != STEP and not column.startswith(KINDS):
            raise TableError(f"{column} is no column of a store: write {'NAME, '.join(KINDS)}NAME")
        if column == STEP and not checkpoints:
            raise TableError("step is a column of checkpoints: set checkpoints=true")
    local = uri.removeprefix(SQLITE)
    if (uri.startswith(SQLITE) or "://" not in uri) and not Path(local).exists():
        raise TableError(f"there is no store {local}")
    quiet_logs()
    try:
        client = MlflowClient(uri)
        runs = _runs(client, experiment, uri)
        finished = [run for run in runs if run.info.status == FINISHED]
        if not finished:
            raise TableError(f"the experiment {experiment} of {uri} has no finished run ({len(runs)} in all)")
        _check_columns(finished, columns, experiment)
        rows = [row for run in finished for row in _rows(client, run, columns, checkpoints=checkpoints)]
    except (MlflowException, DatabaseError) as error:
        raise TableError(f"the store {uri} cannot be read: {' '.join(str(error).split())}") from error
    table = pd.DataFrame(rows, columns=list(dict.fromkeys([RUN, *columns])))
    left = len(runs) - len(finished)
    notes = [f"{left} of {len(runs)} runs have not finished: left out"] if left else []
    return table.set_index(pd.Index(table[RUN], name=RUN)), notes


def _runs(client: MlflowClient, name: str, uri: str) -> list[Run]:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        known = ", ".join(sorted(other.name for other in client.search_experiments()))
        raise TableError(f"{uri} has no experiment {name}; it has {known or 'none'}")
    return runs_of_client(client, experiment.experiment_id)


def _values(run: Run) -> dict[str, Any]:
    data = run.data
    metrics = {name: float(as_logged(value)) for name, value in data.metrics.items()}
    parts: dict[str, dict[str, Any]] = {"params.": data.params, "metrics.": metrics, "tags.": data.tags}
    return {f"{kind}{name}": value for kind, part in parts.items() for name, value in part.items()}


def _check_columns(runs: Sequence[Run], columns: Sequence[str], experiment: str) -> None:
    known = dict.fromkeys(name for run in runs for name in _values(run))
    shown = ", ".join(sorted(name for name in known if not name.startswith("tags.")))
    for column in columns:
        if column != STEP and column not in known:
            raise TableError(f"no run of the experiment {experiment} has {column}: they have {shown}")


def _rows(client: MlflowClient, run: Run, columns: Sequence[str], *, checkpoints: bool) -> Iterator[dict[str, Any]]:
    values, run_id = _values(run), run.info.run_id
    metrics = [column for column in columns if column.startswith("metrics.")]
    if not checkpoints or not metrics:
        yield {RUN: run_id, **{column: values.get(column) for column in columns}}
        return
    histories = []
    for column in metrics:
        points = client.get_metric_history(run_id, column.removeprefix("metrics."))
        # A step that was logged twice counts as logged last.
        points = sorted(points, key=lambda point: point.timestamp)
        histories.append({point.step: float(as_logged(point.value)) for point in points})
    for step in sorted(set.intersection(*(set(history) for history in histories))):
        own = {column: history[step] for column, history in zip(metrics, histories, strict=True)}
        yield {RUN: run_id, **{column: values.get(column) for column in columns}, **own} | (
            {STEP: step} if STEP in columns else {}
        )
