"""Read a study from the run store into tidy tables."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lina_lab.config import StudyConfig, study_from_stored
from lina_lab.records.runstore import CONFIG, FORMAT, FORMAT_VERSION, KIND, PHASE, STUDY, TRAIN_LOSS, quiet_logs
from lina_lab.records.status import Phase
from lina_lab.util.compat.mlflow import experiments_of_database, runs_of_client, runs_of_database, store_errors
from lina_lab.util.imports import gc_paused

from .absent import absent_cells
from .cells import (
    KEYS,
    LOSSES,
    PRUNED,
    TUNING,
    again_rows,
    cell_rows,
    check_cells,
    diverged_rows,
    pruned_rows,
    tuning_rows,
)
from .errors import StoreError
from .history import read_histories
from .labels import as_text
from .lineage import BEFORE, source_rows, with_lineage
from .samples import Samples, read_samples

if TYPE_CHECKING:
    from mlflow.entities import Run

SQLITE = "sqlite:///"


@dataclass(frozen=True, kw_only=True)
class StudyRuns:
    """A study as tables."""

    study: StudyConfig
    cells: pd.DataFrame
    """A row for each cell that counts: see `cells.cell_rows`."""
    history: pd.DataFrame
    """A row for each logged loss of those cells: KEYS, `metric`, `images`, `value`."""
    checkpoints: pd.DataFrame
    """A row for each validation of each run, also of runs that do not count: KEYS, `state`, `reason` (empty for a run
    that counts), the varied fields, `parameters`, `body_parameters`, `images`, `flops` (with those of all that the
    run started from), the losses (the training loss as the mean since the previous validation)."""
    excluded: pd.DataFrame
    """A row for each run that does not count: `cell`, `label`, `status`, `reason`."""
    source: pd.DataFrame
    """A row for each git commit that trained cells: `commit`, `dirty` (uncommitted changes), `cells` (how many)."""
    window: int = 1
    """Steps over which each point of the training loss is a mean."""
    tuning: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=TUNING))
    """A row for each cell that tried a value of the tuned field: see `cells.tuning_rows`. These cells are in no other
    table."""
    absent: list[str] = field(default_factory=list)
    """Names of the study's cells that have no run."""
    again: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=KEYS))
    """A row for each cell that was trained a second time with its sums in another order: KEYS and the objectives. It is
    in no other table."""
    diverged: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=KEYS))
    """KEYS of each cell of the comparison that diverged; it is in `excluded` too."""
    pruned: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=PRUNED))
    """A row for each cell of the comparison that was given up: see `cells.pruned_rows`. It is in `excluded` too."""
    sources: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=[*KEYS, "state"]))
    """KEYS and `state` of each cell that is trained only for those that start from it. It is in no other table."""
    samples: Samples = field(default_factory=Samples)
    """Generated images of each variant at the largest size."""

    @property
    def variant_axes(self) -> list[str]:
        """Names of the axes that define the variants: all but the size's."""
        return [name for name in self.study.axes if name != self.study.size_axis]

    @cached_property
    def variants(self) -> list[str]:
        """Names of the variants, in the order of the study's axes."""
        points = {name: [tuple(map(as_text, point)) for point in self.study.points(name)] for name in self.variant_axes}

        def order(row: Mapping[Any, Any]) -> list[int]:
            own = {name: tuple(row[field] for field in self.study.axes[name]) for name in points}
            return [points[name].index(p) if p in points[name] else len(points[name]) for name, p in own.items()]

        rows = self.cells.drop_duplicates("variant").to_dict("records")
        return [row["variant"] for row in sorted(rows, key=order)]

    @property
    def objectives(self) -> list[str]:
        """Metrics by which the study compares its cells; the main one first."""
        return [objective.metric for objective in self.study.objectives]

    @property
    def losses(self) -> list[str]:
        """The losses that were recorded."""
        return [name for name in LOSSES if name in self.cells]

    @cached_property
    def sizes(self) -> list[Any]:
        """Values of the size axis, the smallest model first."""
        return list(self.cells.groupby("size")["parameters"].mean().sort_values().index)


def variant_fields(study: StudyConfig) -> list[str]:
    """Return the fields that define the variants."""
    return [field for name, axis in study.axes.items() if name != study.size_axis for field in axis]


def read_study(name: str, runs: Path, tracking_uri: str | None = None) -> StudyRuns:
    """Read a study.

    Args:
        name: the study.
        runs: folder of the runs, whose `mlflow.db` is read.
        tracking_uri: another MLflow store to read instead.

    Raises:
        StoreError: there is no store, it has no such study, or no cell of the study counts.
    """
    uri = tracking_uri or f"{SQLITE}{runs.resolve() / 'mlflow.db'}"
    database = uri.removeprefix(SQLITE)
    if uri.startswith(SQLITE) and not Path(database).is_file():
        raise StoreError(f"there is no run store {database}: run the study first (lina run study={name})")
    quiet_logs()
    try:
        with gc_paused(freeze_at_end=False):
            return _read(uri, name)
    except store_errors() as error:
        raise StoreError(f"the run store cannot be read: {' '.join(str(error).split())}") from error


def _read(uri: str, name: str) -> StudyRuns:
    known = _experiments(uri)
    if name not in known:
        others = sorted(other for other in known if other != "Default")
        raise StoreError(f"the run store has no study {name}; it has {', '.join(others) or 'none'}")
    study = _study(uri, name, known[name])
    attempts = list(_runs(uri, known[name], "cell"))
    if not attempts:
        raise StoreError(f"the study {name} has no cell yet: run it first (lina run study={name})")
    tuning = [run for run in attempts if run.data.tags.get(PHASE) == Phase.TUNING]
    again = [run for run in attempts if run.data.tags.get(PHASE) == Phase.ROUNDING]
    source_runs = [run for run in attempts if run.data.tags.get(PHASE) == Phase.SOURCE]
    attempts = [run for run in attempts if run.data.tags.get(PHASE) in (None, Phase.COMPARISON)]
    if not attempts:
        only = "cells for others to start from" if source_runs else "tuning cells"
        raise StoreError(f"the study {name} has {only} only, and none to compare yet: see lina status")
    every = cell_rows(attempts, study)
    sources = cell_rows(source_runs, study) if source_runs else every.iloc[:0]
    if study.stages is not None:
        every = with_lineage(every, [*attempts, *source_runs])
    cells = every[every["reason"] == ""].sort_values(KEYS[1:]).reset_index(drop=True)
    excluded = every[every["reason"] != ""].rename(columns={"state": "status"})
    if cells.empty:
        counts = ", ".join(f"{count} {state}" for state, count in every["state"].value_counts().items())
        reason = excluded["reason"].iloc[0]
        raise StoreError(f"no cell of the study {name} counts ({counts}; the first: {reason}): see lina status")
    check_cells(cells, attempts, study)
    metrics = list(dict.fromkeys([*LOSSES, *(objective.metric for objective in study.objectives)]))
    points, counted = read_histories(uri, list(every["run"]), metrics), set(cells["run"])
    found = StudyRuns(
        study=study,
        cells=cells,
        history=_history(points, cells),
        checkpoints=checkpoint_rows(every, points, variant_fields(study)),
        excluded=excluded[["cell", "label", "status", "reason"]].reset_index(drop=True),
        source=_source([run for run in attempts if run.info.run_id in counted]),
        tuning=tuning_rows(tuning, study, every, attempts),
        absent=absent_cells(pd.concat([every, sources], ignore_index=True), study),
        again=again_rows(again, study),
        diverged=diverged_rows(every),
        pruned=pruned_rows(every),
        sources=source_rows(sources),
    )
    database = Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None
    return replace(found, samples=read_samples(uri, database, cells, found.variants, name))


def _study(uri: str, name: str, experiment: str) -> StudyConfig:
    """Return the definition of the study, which its own run holds."""
    study_run = next(_runs(uri, experiment, "study"), None)
    if study_run is None:
        raise StoreError(f"the experiment {name} was not written by a study: it has no study run")
    version = int(study_run.data.tags.get(FORMAT, "1"))
    if version > FORMAT_VERSION:
        raise StoreError(
            f"the study {name} was written by a newer lina_lab (format {version}, and this one knows "
            f"{FORMAT_VERSION}): read it with that version"
        )
    try:
        return study_from_stored(StudyConfig, json.loads(study_run.data.tags[STUDY]))
    except ValueError as error:
        raise StoreError(
            f"the definition of the study {name} is not one of this version of lina_lab ({error}): read it "
            "with the version that wrote it"
        ) from error


def _experiments(uri: str) -> dict[str, str]:
    """Name -> id of the store's experiments. MLflow, which takes seconds to import, is for servers alone."""
    if uri.startswith(SQLITE):
        return experiments_of_database(uri)
    from mlflow import MlflowClient

    return {found.name: found.experiment_id for found in MlflowClient(uri).search_experiments()}


def _runs(uri: str, experiment: str, kind: str) -> "Iterator[Run]":
    if uri.startswith(SQLITE):
        return runs_of_database(uri, experiment, KIND, kind, no_params_with=CONFIG)
    from mlflow import MlflowClient

    return iter(runs_of_client(MlflowClient(uri), experiment, f"tags.`{KIND}` = '{kind}'"))


def _history(points: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `StudyRuns.history`. It may have millions of rows, so names are categories."""
    names = points["run"].cat
    index = pd.Index(cells["run"]).get_indexer(names.categories)[names.codes]
    kept = points[index >= 0]
    rows = cells[KEYS].astype({"cell": "category", "variant": "category"}).iloc[index[index >= 0]]
    parts = [rows.reset_index(drop=True), kept.drop(columns="run").reset_index(drop=True)]
    return pd.DataFrame(pd.concat(parts, axis=1))


def checkpoint_rows(every: pd.DataFrame, points: pd.DataFrame, fields: Sequence[str]) -> pd.DataFrame:
    """Return the table of `StudyRuns.checkpoints`.

    Args:
        every: see `cells.cell_rows`.
        points: `run`, `metric`, `images`, `value` of all these runs.
        fields: the varied fields.
    """
    validated = points[points["metric"] != TRAIN_LOSS]
    index = ["run", "images", "metric"]
    wide = validated.drop_duplicates(index, keep="last").set_index(index)["value"].unstack("metric")
    wide = pd.DataFrame(wide.reset_index().sort_values("images"))
    steps = points[points["metric"] == TRAIN_LOSS].rename(columns={"images": "seen"}).sort_values("seen")
    # A training loss is logged at the images seen before its step, a validation at those seen so far.
    matched = pd.merge_asof(
        steps,
        wide[["run", "images"]].assign(position=wide["images"]),
        left_on="seen",
        right_on="position",
        by="run",
        direction="forward",
        allow_exact_matches=False,
    )
    means = matched.groupby(["run", "images"], as_index=False).agg(**{TRAIN_LOSS: ("value", "mean")})
    every = every if BEFORE in every else every.assign(**{BEFORE: 0.0})
    known = ["run", *KEYS, "state", "reason", *fields, "parameters", "body_parameters", "flops_per_image", BEFORE]
    kinds = {"run": points["run"].dtype, **dict.fromkeys(["cell", "variant", "state", "reason", *fields], "category")}
    table = every[known].astype(kinds).merge(wide, on="run").merge(means, on=["run", "images"], how="left")
    table = table.assign(flops=table[BEFORE] + table["flops_per_image"] * table["images"])
    table = table.drop(columns=["run", "flops_per_image", BEFORE])
    return table.sort_values([*KEYS[1:], "images"]).reset_index(drop=True)


def _source(runs: Sequence["Run"]) -> pd.DataFrame:
    names = {"commit": ("mlflow.source.git.commit", "unknown commit"), "dirty": ("mlflow.source.git.dirty", "unknown")}
    frame = pd.DataFrame({name: [run.data.tags.get(*tag) for run in runs] for name, tag in names.items()})
    return frame.value_counts().rename("cells").reset_index()
