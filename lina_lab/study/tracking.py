"""MLflow: one run for the study, a child run for each attempt at a cell."""

import json
from pathlib import Path
from time import time
from typing import Any, get_args

import git
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_COMMIT,
    MLFLOW_GIT_DIRTY,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NAME,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
)

from lina_lab.config import to_dict
from lina_lab.runstore import AXES, AXIS, CELL, ERROR, KIND, NOTE, SEED, STATUS, STUDY, quiet_logs
from lina_lab.study.grid import Cell, Plan, flatten
from lina_lab.study.store import Status

PARAMS_A_REQUEST = 100
RUN_STATUS = {"done": "FINISHED", "diverged": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class Tracker:
    """Writes a study to MLflow. The experiment has the study's name.

    Args:
        uri: the tracking store.
        artifacts: folder of the artifacts; None: where the store puts them.
        plan: the study.
    """

    def __init__(self, uri: str, artifacts: Path | None, plan: Plan) -> None:
        quiet_logs()
        self.uri, self.plan = uri, plan
        self.client = MlflowClient(uri)
        self.source = _source_tags()
        experiment = self.client.get_experiment_by_name(plan.study.name)
        self.experiment_id = (
            experiment.experiment_id
            if experiment
            else self.client.create_experiment(
                plan.study.name, artifact_location=artifacts.as_uri() if artifacts else None
            )
        )
        self.study_run = self._study_run()

    def _study_run(self) -> str:
        """The study's own run: found, or made."""
        found = self.client.search_runs([self.experiment_id], f"tags.`{KIND}` = 'study'", max_results=1)
        study = self.plan.study
        if found:
            run_id: str = found[0].info.run_id
            self.client.update_run(run_id, status="RUNNING")
        else:
            run_id = self.client.create_run(self.experiment_id, run_name=f"study {study.name}").info.run_id
        note = f"**{study.question.strip()}**\n\nHeld equal: {'; '.join(study.held_equal)}."
        definition = json.dumps(to_dict(study))
        self._set_tags(run_id, {KIND: "study", NOTE: note, STUDY: definition, **self.source})
        return run_id

    def start(self, cell: Cell, config_file: Path) -> str:
        """Make the run of a new attempt at a cell, with all that is known before it trains; returns its id."""
        tags = {
            MLFLOW_RUN_NAME: cell.label,
            MLFLOW_PARENT_RUN_ID: self.study_run,
            KIND: "cell",
            CELL: cell.identity,
            SEED: str(cell.config.seed),
            STATUS: "running",
            AXES: json.dumps(cell.axes),
            **{f"{AXIS}{field}": str(value) for field, value in cell.axes.items()},
            **self.source,
        }
        run_id: str = self.client.create_run(self.experiment_id, tags=tags).info.run_id
        params = [Param(name, str(value)) for name, value in flatten(to_dict(cell.config)).items()]
        for start in range(0, len(params), PARAMS_A_REQUEST):
            self.client.log_batch(run_id, params=params[start : start + PARAMS_A_REQUEST])
        self.client.log_artifact(run_id, str(config_file))
        return run_id

    def end(
        self,
        run_id: str,
        status: str,
        *,
        metrics: dict[str, float] | None = None,
        images_seen: int = 0,
        error: str | None = None,
        artifacts: tuple[Path, ...] = (),
    ) -> None:
        """Close an attempt: its status, its last numbers, its files."""
        for path in artifacts:
            self.client.log_artifact(run_id, str(path))
        entries = _metrics(metrics or {}, images_seen)
        tags = {STATUS: status} | ({} if error is None else {ERROR: error[:5000]})
        self.client.log_batch(run_id, metrics=entries, tags=[RunTag(k, v) for k, v in tags.items()])
        self.client.set_terminated(run_id, RUN_STATUS[status])

    def close_dead(self) -> None:
        """End the attempts that a process which died left running."""
        for run in self._running_cells():
            self.end(run.info.run_id, "interrupted", error="the process that ran it died")

    def close(self, counts: dict[str, int], metrics: dict[str, float]) -> None:
        """End the study's run with the number of cells in each state, and with 0 for a state that none is in now."""
        self._set_tags(self.study_run, {STATUS: ", ".join(f"{count} {name}" for name, count in counts.items())})
        cells = {f"cells/{name}": float(counts.get(name, 0)) for name in get_args(Status)}
        self.client.log_batch(self.study_run, metrics=_metrics(cells | metrics, step=0))
        self.client.set_terminated(self.study_run, "FINISHED" if set(counts) <= {"done", "diverged"} else "FAILED")

    def has_run(self, run_id: str) -> bool:
        """Whether the store knows a finished run of this id."""
        tagged = f"attributes.run_id = '{run_id}' and tags.`{KIND}` = 'cell' and attributes.status = 'FINISHED'"
        return bool(self.client.search_runs([self.experiment_id], tagged, max_results=1))

    def _running_cells(self) -> list[Run]:
        left = f"tags.`{KIND}` = 'cell' and attributes.status = 'RUNNING'"
        return list(self.client.search_runs([self.experiment_id], left))

    def _set_tags(self, run_id: str, tags: dict[str, str]) -> None:
        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def _metrics(values: dict[str, float], step: int) -> list[Metric]:
    now = int(time() * 1000)
    return [Metric(name, value, now, step) for name, value in values.items()]


def _source_tags() -> dict[str, str]:
    """The command; the commit of the code that runs, and whether tracked files differ from it, in a git checkout."""
    command = {MLFLOW_SOURCE_NAME: "lina_lab.run", MLFLOW_SOURCE_TYPE: "LOCAL"}
    try:
        repository = git.Repo(Path(__file__), search_parent_directories=True)
        commit: Any = repository.head.commit.hexsha
    except (git.InvalidGitRepositoryError, ValueError):
        return command
    return command | {MLFLOW_GIT_COMMIT: commit, MLFLOW_GIT_DIRTY: str(repository.is_dirty()).lower()}
