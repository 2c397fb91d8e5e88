"""From the run store to tidy tables."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import DatabaseError

from analysis.errors import StoreError
from analysis.history import read_histories
from lina_lab.config import StudyConfig, from_dict
from lina_lab.runstore import (
    AXES,
    CELL,
    ERROR,
    IMAGES_PER_SECOND,
    KIND,
    PARAMETERS,
    SEED,
    STATUS,
    STUDY,
    TRAIN_LOSS,
    quiet_logs,
)

PAGE = 1000
SQLITE = "sqlite:///"
LOSSES = (TRAIN_LOSS, "val/loss_raw", "val/loss_ema")
KEYS = ["cell", "variant", "size", "seed"]
"""Columns that say which cell a row is about; `variant` names the values of all axes but the size's."""


@dataclass(frozen=True, kw_only=True)
class StudyRuns:
    """All that the store holds of one study."""

    study: StudyConfig
    cells: pd.DataFrame
    """A row for each cell that is done: KEYS, a column for each varied field, `parameters`, last losses, speed."""
    history: pd.DataFrame
    """A row for each logged loss of those cells: KEYS, `metric`, `images`, `value`."""
    excluded: pd.DataFrame
    """A row for each other attempt: `cell`, `label`, `status`, `reason`."""
    source: pd.DataFrame
    """A row for each git commit that the cells were made with: `commit`, `dirty`, `cells`."""
    window: int = 1
    """Steps that each point of the training loss is the mean of."""

    @property
    def variant_axes(self) -> list[str]:
        """Names of the axes that make the variants."""
        return [name for name in self.study.axes if name != self.study.size_axis]

    @property
    def variants(self) -> list[str]:
        """Names of the variants, in the order of the study's axes."""
        rows = self.cells.drop_duplicates("variant")
        places = {
            name: [tuple(as_text(value) for value in point) for point in self.study.points(name)]
            for name in self.variant_axes
        }

        def order(row: Any) -> list[int]:
            points = {name: tuple(row[list(self.study.axes[name])]) for name in places}
            return [places[name].index(p) if p in places[name] else len(places[name]) for name, p in points.items()]

        return list(rows["variant"].iloc[sorted(range(len(rows)), key=lambda i: order(rows.iloc[i]))])

    @property
    def losses(self) -> list[str]:
        """The losses that there are."""
        return [name for name in LOSSES if name in self.cells]

    @property
    def sizes(self) -> list[Any]:
        """Values of the size, the smallest model first."""
        return list(self.cells.groupby("size")["parameters"].mean().sort_values().index)


def variant_fields(study: StudyConfig) -> list[str]:
    """The fields that make the variants."""
    return [field for name, axis in study.axes.items() if name != study.size_axis for field in axis]


def read_study(name: str, runs: Path, tracking_uri: str | None = None) -> StudyRuns:
    """Read one study.

    Args:
        name: the study.
        runs: folder of the runs; its `mlflow.db` is read.
        tracking_uri: another MLflow store.

    Raises:
        StoreError: no store, no such study in it, or no cell of it that is done.
    """
    database = runs.resolve() / "mlflow.db"
    if tracking_uri is not None and tracking_uri.startswith(SQLITE):
        database = Path(tracking_uri.removeprefix(SQLITE))
    if (tracking_uri is None or tracking_uri.startswith(SQLITE)) and not database.is_file():
        raise StoreError(f"there is no run store {database}: run the study first, python -m lina_lab.run study={name}")
    quiet_logs()
    uri = tracking_uri or f"{SQLITE}{database}"
    try:
        return _read(MlflowClient(uri), uri, name)
    except (MlflowException, DatabaseError) as error:
        raise StoreError(f"the run store cannot be read: {' '.join(str(error).split())}") from error


def _read(client: MlflowClient, uri: str, name: str) -> StudyRuns:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        known = sorted(other.name for other in client.search_experiments() if other.name != "Default")
        raise StoreError(f"the run store has no study {name}; it has {', '.join(known) or 'none'}")
    attempts = list(_runs(client, experiment, "cell"))
    study_run = next(_runs(client, experiment, "study"), None)
    if study_run is None:
        raise StoreError(f"the experiment {name} was not written by a study: it has no study run")
    study = from_dict(StudyConfig, json.loads(study_run.data.tags[STUDY]))
    done = _newest_done(attempts)
    excluded = pd.DataFrame(
        [_excluded_row(run) for run in attempts if run.info.run_id not in {r.info.run_id for r in done}],
        columns=["cell", "label", "status", "reason"],
    )
    if not done:
        counts = excluded["status"].value_counts().to_dict()
        raise StoreError(f"the study {name} has no cell that is done, but {counts or 'none at all'}")
    cells = pd.DataFrame([_cell_row(run, study) for run in done])
    keys = pd.DataFrame([{"run": run.info.run_id, **_keys(run, study)} for run in done])
    points = read_histories(uri, list(keys["run"]), LOSSES)
    history = points.merge(keys, on="run")[[*KEYS, "metric", "images", "value"]]
    if not pd.api.types.is_numeric_dtype(cells["size"]):
        for table in (cells, history):
            table["size"] = table["size"].map(as_text)
    cells = cells.sort_values(KEYS[1:]).reset_index(drop=True)
    return StudyRuns(study=study, cells=cells, history=history, excluded=excluded, source=_source(done))


def _runs(client: MlflowClient, experiment: Experiment, kind: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs(
            [experiment.experiment_id], f"tags.`{KIND}` = '{kind}'", max_results=PAGE, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _newest_done(attempts: Sequence[Run]) -> list[Run]:
    newest: dict[str, Run] = {}
    for run in sorted(attempts, key=lambda run: run.info.start_time):
        if run.data.tags.get(STATUS) == "done":
            newest[run.data.tags[CELL]] = run
    return list(newest.values())


def _excluded_row(run: Run) -> dict[str, str]:
    tags = run.data.tags
    status = tags.get(STATUS, "unknown")
    reason = "a later attempt at the cell is done" if status == "done" else tags.get(ERROR, "it has not ended")
    return {"cell": tags[CELL], "label": run.info.run_name, "status": status, "reason": reason}


def _keys(run: Run, study: StudyConfig) -> dict[str, Any]:
    axes, size = json.loads(run.data.tags[AXES]), next(iter(study.axes[study.size_axis]))
    return {
        "cell": run.data.tags[CELL],
        "variant": ", ".join(study.point_name(a, axes) for a in study.axes if a != study.size_axis) or "all",
        "size": axes[size],
        "seed": int(run.data.tags[SEED]),
    }


def _cell_row(run: Run, study: StudyConfig) -> dict[str, Any]:
    metrics, params = run.data.metrics, run.data.params
    batch_size = int(params["data.batch_size"])
    steps = -(-int(params["trainer.max_images"]) // batch_size)
    return {
        **_keys(run, study),
        **{field: as_text(value) for field, value in json.loads(run.data.tags[AXES]).items()},
        "parameters": int(metrics[PARAMETERS]),
        **{name: metrics[name] for name in LOSSES},
        "images_seen": steps * batch_size,
        "batch_size": batch_size,
        "steps": steps,
        "lr": float(params["optimizer.lr"]),
        "warmup_images": int(params["optimizer.warmup_images"]),
        "images_per_second": metrics[IMAGES_PER_SECOND],
        "fit_seconds": metrics["fit_seconds"],
        "peak_memory_mib": metrics["peak_memory_mib"],
    }


def _source(runs: Sequence[Run]) -> pd.DataFrame:
    rows = [
        (
            run.data.tags.get("mlflow.source.git.commit", "unknown"),
            run.data.tags.get("mlflow.source.git.dirty", "unknown"),
        )
        for run in runs
    ]
    frame = pd.DataFrame(rows, columns=["commit", "dirty"])
    return frame.value_counts().rename("cells").reset_index()


def as_text(value: Any) -> str:
    """A field's value for a label: words as they are, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
