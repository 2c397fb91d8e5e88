"""MLflow: one run for the study, one child run for each cell, however often it is taken up."""

import json
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from time import time
from typing import Concatenate, ParamSpec, TypeVar

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils import mlflow_tags

from lina_lab.config import StudyConfig, to_dict
from lina_lab.config.names import full_name
from lina_lab.records import runstore
from lina_lab.records.files import PICTURE_FILE, RESULT_FILE, SAMPLES_FILE
from lina_lab.records.record import Record, read_record
from lina_lab.records.runstore import THREADS, WALL, quiet_logs
from lina_lab.records.status import RUN_STATUS, CellStatus, RunStatus
from lina_lab.study.backend import make_whole
from lina_lab.study.grid import Cell, Plan
from lina_lab.study.note import Standing, experiment_tags, first_note
from lina_lab.study.origin import data_of, source_tags
from lina_lab.study.tuning import Tuned
from lina_lab.study.workspace import Workspace
from lina_lab.util.compat.mlflow import ARTIFACTS, make_tables, relocate_artifacts
from lina_lab.util.errors import StudyError
from lina_lab.util.nested import flatten
from lina_lab.util.signals import signals_deferred_for

T = TypeVar("T")
P = ParamSpec("P")

PARAMS_A_REQUEST = 100
TABLE_FILE = "table.md"
KEPT_FILES = (RESULT_FILE, PICTURE_FILE, SAMPLES_FILE)
"""Files of a cell that are artifacts of its run, from which a lost folder is restored."""
PLAIN_NUMBERS = ("parameters", "trainable_parameters", "images_per_second", "fit_seconds", "peak_memory_mib")
NUMBERS = {
    **{name: name for name in PLAIN_NUMBERS},
    THREADS: "threads",
    **{f"{WALL}{name}": name for name in ("ranks", "step_seconds", "data_seconds", "communication_seconds")},
}
"""Metric of a cell's run -> field of the result, which is None where it was not measured."""


def _whole(method: Callable[Concatenate["Tracker", P], T]) -> Callable[Concatenate["Tracker", P], T]:
    """A method that Ctrl-C does not interrupt where the store is a file."""

    @wraps(method)
    def wrapper(self: "Tracker", /, *args: P.args, **kwargs: P.kwargs) -> T:
        with signals_deferred_for(self.uri):
            return method(self, *args, **kwargs)

    return wrapper


class Tracker:
    """Writes a study to MLflow. The experiment has the study's name.

    Args:
        uri: the tracking store.
        artifacts: folder of the artifacts; None: where the store puts them.
        plan: the study.

    Raises:
        StudyError: a newer version wrote the study.
    """

    def __init__(self, uri: str, artifacts: Path | None, plan: Plan) -> None:
        quiet_logs()
        self.uri, self.plan = uri, plan
        self.client = MlflowClient(uri)
        self.source = source_tags()
        name, location = plan.study.name, artifacts.as_uri() if artifacts else None
        found = self.client.get_experiment_by_name(name)
        self.experiment_id = found.experiment_id if found else self.client.create_experiment(name, location)
        if found and found.lifecycle_stage == LifecycleStage.DELETED:
            self.client.restore_experiment(self.experiment_id)
        for tag, value in experiment_tags(self.plan, self.experiment_id, found.tags if found else {}).items():
            self.client.set_experiment_tag(self.experiment_id, tag, value)
        self.study_run = self._study_run()

    @classmethod
    def open(cls, workspace: Workspace) -> "Tracker":
        """The tracker of a workspace. Makes its SQLite file if needed: within `Store.setup`, not by two at once."""
        if workspace.tracking_uri is not None:
            return cls(workspace.tracking_uri, None, workspace.plan)
        path, artifacts = workspace.tracking_file, workspace.runs / ARTIFACTS
        quiet_logs()
        make_whole(path, lambda url: make_tables(url, str(artifacts)))
        relocate_artifacts(path)
        return cls(workspace.tracking_address, artifacts, workspace.plan)

    def _study_run(self) -> str:
        """The study's own run, found or made."""
        found = self.client.search_runs([self.experiment_id], f"tags.`{runstore.KIND}` = 'study'", max_results=1)
        study = self.plan.study
        if found:
            version = int(found[0].data.tags.get(runstore.FORMAT, "1"))
            if version > runstore.FORMAT_VERSION:
                raise StudyError(
                    f"the study {study.name} in the tracking store was written by a newer lina_lab (format {version}, "
                    f"and this one knows {runstore.FORMAT_VERSION}): use that version, or give the study another name"
                )
            run_id: str = found[0].info.run_id
            self.client.update_run(run_id, status=RunStatus.RUNNING.value)
        else:
            tags = {runstore.KIND: "study", mlflow_tags.MLFLOW_RUN_NAME: f"study {study.name}"}
            run_id = self.client.create_run(self.experiment_id, tags=tags).info.run_id
        tags = {
            runstore.KIND: "study",
            runstore.FORMAT: str(_format_of(study)),
            runstore.NOTE: first_note(self.plan, self.experiment_id),
            runstore.STUDY: json.dumps(to_dict(study)),
        }
        self._set_tags(run_id, tags | self.source)
        return run_id

    def _log_data(self, run_id: str, cell: Cell) -> None:
        data = [data_of(cell.config, self.plan.begun.contents)]
        try:
            self.client.log_inputs(run_id, data)
        except MlflowException:
            # The first run with a data set makes its row. Of two at once one is refused, and then finds it (MLflow 3.17
            # on a database server).
            self.client.log_inputs(run_id, data)

    @_whole
    def start(self, cell: Cell, config_file: Path, kept: Record | None = None) -> str:
        """Make or resume the run of a cell, with all that is known before it trains; returns its id.

        Only the holder of the cell's lease calls this, so a cell has one run.

        Args:
            cell: the cell.
            config_file: its configuration in its folder.
            kept: its result, if it was trained before.
        """
        tags = {
            mlflow_tags.MLFLOW_RUN_NAME: self.run_name(cell),
            mlflow_tags.MLFLOW_PARENT_RUN_ID: self.study_run,
            runstore.KIND: "cell",
            runstore.CELL: cell.config_hash,
            runstore.SEED: str(cell.config.seed),
            runstore.STATUS: CellStatus.RUNNING.value,
            runstore.AXES: json.dumps(cell.axes),
            runstore.PHASE: cell.phase.value,
            **{f"{runstore.AXIS}{field}": str(value) for field, value in cell.axes.items()},
            **(self.source if kept is None else kept.source or {}),
        }
        run_id, known = self.run_of(cell.config_hash), dict[str, str]()
        if run_id is None:
            run_id = str(self.client.create_run(self.experiment_id, tags=tags).info.run_id)
            self._log_data(run_id, cell)
        else:
            self.client.update_run(run_id, status=RunStatus.RUNNING.value)
            source = {} if kept is not None else self.source
            self._set_tags(run_id, {runstore.STATUS: CellStatus.RUNNING.value} | source)
            known = self.client.get_run(run_id).data.params
        config = to_dict(cell.config)
        contents = json.dumps(dict(self.plan.begun.contents))
        self._set_tags(run_id, {**runstore.config_tags(config), runstore.CONTENTS: contents})
        # MLflow refuses another value of a parameter: of what may move while a study goes on, it keeps the first.
        params = [Param(name, str(value)) for name, value in flatten(config).items() if name not in known]
        for start in range(0, len(params), PARAMS_A_REQUEST):
            self.client.log_batch(run_id, params=params[start : start + PARAMS_A_REQUEST])
        self.client.log_artifact(run_id, str(config_file))
        return run_id

    def run_name(self, cell: Cell) -> str:
        """A cell's name in MLflow; programs find its run by the tag `lina.cell`."""
        again = {"again": " ".join(f"{field}={value}" for field, value in cell.again.items())} if cell.again else {}
        return full_name(self.plan.study, cell.axes, {**cell.tuned, "seed": cell.config.seed, **again})

    @_whole
    def run_of(self, config_hash: str) -> str | None:
        """The id of a cell's run; None if it has none yet."""
        wanted = f"tags.`{runstore.KIND}` = 'cell' and tags.`{runstore.CELL}` = '{config_hash}'"
        found = self.client.search_runs([self.experiment_id], wanted, max_results=1)
        return found[0].info.run_id if found else None

    @_whole
    def undelete(self, config_hash: str) -> bool:
        """Restore a cell's run that was deleted after it had ended; False if the store has none."""
        wanted = f"tags.`{runstore.KIND}` = 'cell' and tags.`{runstore.CELL}` = '{config_hash}'"
        for run in self.client.search_runs([self.experiment_id], wanted, ViewType.DELETED_ONLY):
            if run.data.tags.get(runstore.STATUS) in (CellStatus.DONE, CellStatus.DIVERGED, CellStatus.PRUNED):
                self.client.restore_run(run.info.run_id)
                return True
        return False

    def fetch(self, cell: Cell, folder: Path) -> bool:
        """Restore a cell's record and its images from the artifacts of its run; False if the run has no record."""
        run_id = self.run_of(cell.config_hash)
        if run_id is None:
            return False
        for name in set(KEPT_FILES) & {file.path for file in self.client.list_artifacts(run_id)}:
            self.client.download_artifacts(run_id, name, str(folder))
        kept = read_record(folder, cell.config_hash)
        return kept is not None and kept.status.final

    def record(self, record: Record, folder: Path) -> None:
        """Send how a cell ended, with what is left in its folder of its curve, its last numbers and its files."""
        result = record.result
        assert result is not None
        numbers = {metric: getattr(result, field) for metric, field in NUMBERS.items()}
        self.deliver(record.mlflow_run, folder)
        self.end(
            record.mlflow_run,
            record.status,
            metrics={metric: value for metric, value in numbers.items() if value is not None},
            last=result.metrics,
            images_seen=result.images_seen,
            error=result.error,
            artifacts=tuple(folder / name for name in KEPT_FILES if (folder / name).exists()),
        )

    @_whole
    def abandon(self, config_hashes: Sequence[str]) -> None:
        """Delete the runs of cells whose configuration was corrected before anything was trained."""
        for config_hash in config_hashes:
            if (run_id := self.run_of(config_hash)) is not None:
                self.client.delete_run(run_id)

    @_whole
    def end(
        self,
        run_id: str,
        status: CellStatus,
        *,
        metrics: dict[str, float] | None = None,
        last: dict[str, float] | None = None,
        images_seen: int = 0,
        error: str | None = None,
        artifacts: tuple[Path, ...] = (),
    ) -> None:
        """Record how a cell ended: its status, its last numbers unless the run has them, its files.

        Args:
            run_id: the cell's run.
            status: how it ended.
            metrics: numbers that are known at the end.
            last: last values of the metrics that were logged while it trained, for a run that has no such curve.
            images_seen: step of these metrics.
            error: why it has no result.
            artifacts: files.
        """
        for path in artifacts:
            self.client.log_artifact(run_id, str(path))
        held = self.client.get_run(run_id).data.metrics if metrics else {}
        numbers = (metrics or {}) | ({} if held.keys() & (last or {}).keys() else last or {})
        entries = _metrics({name: value for name, value in numbers.items() if held.get(name) != value}, images_seen)
        tags = {runstore.STATUS: status.value, runstore.ERROR: (error or "")[:5000]}
        self.client.log_batch(run_id, metrics=entries, tags=[RunTag(k, v) for k, v in tags.items()])
        self.client.set_terminated(run_id, RUN_STATUS[status].value)

    @_whole
    def deliver(self, run_id: str, folder: Path) -> None:
        """Send the metrics that a cell left in its folder because the store did not answer."""
        from lina_lab.training.mlflow_buffer import deliver_unsent

        deliver_unsent(self.client, run_id, folder)

    @_whole
    def summarise(
        self, standing: Standing, metrics: dict[str, float], tuned: Sequence[Tuned] = (), *, ended: bool = False
    ) -> None:
        """Write the study so far on its own run.

        Args:
            standing: its cells, its answer and its description.
            metrics: further numbers.
            tuned: how its tuning stands.
            ended: whether this worker does nothing more for it.
        """
        self._set_tags(
            self.study_run, {runstore.STATUS: standing.counts, runstore.NOTE: standing.note(self.experiment_id)}
        )
        self.client.log_batch(self.study_run, metrics=_metrics(standing.numbers | metrics, step=0))
        self.client.log_text(self.study_run, standing.table, TABLE_FILE)
        if tuned:
            text = json.dumps([one.to_dict() for one in tuned], indent=1)
            self.client.log_text(self.study_run, text + "\n", runstore.TUNED_FILE)
        if ended:
            finished = all(status.final for status in standing.summary.counts)
            self.client.set_terminated(self.study_run, RunStatus.FINISHED if finished else RunStatus.FAILED)

    def _set_tags(self, run_id: str, tags: dict[str, str]) -> None:
        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def _format_of(study: StudyConfig) -> int:
    if study.rounding is not None:
        return runstore.FORMAT_VERSION
    return runstore.TUNED_FORMAT if study.tune else runstore.PLAIN_FORMAT


def _metrics(values: dict[str, float], step: int) -> list[Metric]:
    now = int(time() * 1000)
    return [Metric(name, value, now, step) for name, value in values.items()]
