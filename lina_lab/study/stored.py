"""A study as the stores alone have it: what commands need that know its name and not its configuration."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.storages import BaseStorage

from lina_lab.config import CheckpointConfig, StudyConfig, current_name, from_stored, study_from_stored, to_dict
from lina_lab.records.files import CANCEL_FILE, JOB_FILE
from lina_lab.records.record import Record, read_record
from lina_lab.records.status import CellStatus
from lina_lab.study.backend import JOURNAL, open_storage
from lina_lab.study.cells import (
    CELL,
    FLOPS,
    IMAGES,
    OF_AN_ATTEMPT,
    STARTS_FROM,
    CellState,
    end_trial,
    queued_again,
    state_of,
)
from lina_lab.study.compared import with_compared
from lina_lab.study.grid import Plan, make_plan
from lina_lab.study.identity import begun_of, check_folder
from lina_lab.study.lease import Heartbeat, Lease, StaleLeases, read_heartbeat
from lina_lab.study.parameters import add_cells
from lina_lab.util.compat.optuna import storage_of, trial_rows
from lina_lab.util.errors import StudyError
from lina_lab.util.signals import defer_signals

DEFINITION = "lina.definition"
"""Optuna's attribute of the study: the study's and the trial's configuration when cells were last queued."""
RETRIED = (CellStatus.FAILED, CellStatus.CANCELLED)
"""Statuses that a new command starts again from."""
SETUP_WAIT_SECONDS = 900
"""Longer than whoever makes trials meanwhile may wait for a store."""
SQLITE = "sqlite:///"


@contextmanager
def setup_lock(runs: Path) -> Iterator[None]:
    """Let one process at a time make tables, studies, experiments and trials.

    Raises:
        StudyError: another process does not end it.
    """
    try:
        held = FileLock(runs / "setup.lock").acquire(timeout=SETUP_WAIT_SECONDS)
    except Timeout as error:
        raise StudyError(f"another process has held {error.lock_file} for minutes: stop it") from None
    with held:
        yield


def note_definition(study: optuna.Study, plan: Plan) -> None:
    """Note all that is needed to make the plan again."""
    definition = json.loads(json.dumps({"study": to_dict(plan.study), "trial": plan.trial}))
    if study.user_attrs.get(DEFINITION) != definition:
        study.set_user_attr(DEFINITION, definition)


@dataclass(frozen=True, kw_only=True)
class StoredCell:
    """A cell as its latest attempt in the store has it."""

    state: CellState
    attributes: dict[str, Any]
    started: datetime | None
    """When a worker took the latest attempt."""

    @cached_property
    def point(self) -> dict[str, Any]:
        """Field -> value for the fields that the study varies or tunes, and the seed."""
        known = {CELL, IMAGES, FLOPS, STARTS_FROM, "seed", *OF_AN_ATTEMPT}
        varied = {current_name(field): value for field, value in self.attributes.items() if field not in known}
        return {**varied, "seed": self.attributes.get("seed")}

    @property
    def images(self) -> int | None:
        """Images of its budget; None: a version before 0.3 queued it."""
        return self.attributes.get(IMAGES)

    @property
    def flops(self) -> float | None:
        """FLOPs of its whole training; None: a version before 0.3 queued it."""
        return self.attributes.get(FLOPS)


class StoredStudy:
    """A study that exists.

    Args:
        name: the study's.
        runs: folder of all results.
        storage: Optuna's storage; None: `optuna.db` in the folder of runs.
        reads: nothing will be written, so a folder of runs that this user may only read is enough.

    Raises:
        StudyError: there is no such study, or the storage cannot be opened.
    """

    def __init__(self, name: str, runs: Path, storage: str | None, *, reads: bool = False) -> None:
        self.name, self.runs, self.folder = name, runs, runs / name
        opened = open_existing(runs, storage, reads=reads)
        if opened is None or not self.folder.is_dir():
            raise missing(name, runs, storage)
        sampler = optuna.samplers.RandomSampler(seed=0)
        try:
            self.study = optuna.load_study(study_name=name, storage=opened, sampler=sampler)
        except KeyError:
            raise missing(name, runs, storage) from None
        if storage is not None:
            check_folder(self.study, self.folder)

    @cached_property
    def definition(self) -> StudyConfig | None:
        """The study's configuration; None: a version before 0.3 wrote the store."""
        stored = self.study.user_attrs.get(DEFINITION)
        return None if stored is None else study_from_stored(StudyConfig, stored["study"])

    @property
    def checkpoint_policy(self) -> CheckpointConfig:
        """How the study's cells keep their checkpoints, as it was last run; of earlier versions, the default."""
        trial = self.study.user_attrs.get(DEFINITION, {}).get("trial", {})
        return from_stored(CheckpointConfig, trial.get("checkpoint", {}), within="checkpoint")

    @defer_signals()
    def cells(self) -> list[StoredCell]:
        """Every cell that the study ever had, in the order in which they were queued."""
        found: dict[str, StoredCell] = {}
        for row in trial_rows(self.study):
            if (state := state_of(row)) is not None:
                found[state.config_hash] = StoredCell(state=state, attributes=row.attributes, started=row.started)
        return list(found.values())

    def plan(self, cells: Sequence[StoredCell]) -> Plan | None:
        """The plan with what follows from the cells' results; None: the store does not say how the study goes on."""
        stored = self.study.user_attrs.get(DEFINITION)
        if self.definition is None or stored is None:
            return None
        # Imports scipy, which most studies are looked at without.
        from lina_lab.study.rounds import grown

        plan = make_plan(self.definition, stored["trial"], runs=self.runs)
        plan = with_compared(plan.as_begun(begun_of(self.study, plan)), self.folder)
        return grown(plan, {cell.state.config_hash: cell.state for cell in cells})

    def record(self, cell: StoredCell) -> Record | None:
        """The record in a cell's folder."""
        return read_record(self.folder / cell.state.config_hash, cell.state.config_hash)

    def owner(self, cell: StoredCell) -> tuple[bool, Heartbeat | None]:
        """Whether the process that trains a running cell lives, and the last that it noted.

        A user who may only read cannot try the lock, and takes a process that noted something for alive.
        """
        folder = self.folder / cell.state.config_hash
        try:
            lease = StaleLeases().acquire(folder)
        except PermissionError:
            beat = read_heartbeat(folder)
            return beat is not None, beat
        if lease is None:
            return True, read_heartbeat(folder)
        lease.release()
        return False, None

    def job(self, cell: StoredCell) -> str | None:
        """The job of a cluster that trains a cell; None: there is none."""
        try:
            return str(json.loads((self.folder / cell.state.config_hash / JOB_FILE).read_text())["job"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @defer_signals()
    def retry(self, cells: Sequence[StoredCell]) -> list[StoredCell]:
        """Queue those of the cells again that have failed or were cancelled; returns these."""
        with setup_lock(self.runs):
            latest = {cell.state.config_hash: cell for cell in self.cells()}
            again = [latest[cell.state.config_hash] for cell in cells]
            again = [cell for cell in again if cell.state.status in RETRIED]
            for cell in again:
                (self.folder / cell.state.config_hash / CANCEL_FILE).unlink(missing_ok=True)
            add_cells(self.study, self.definition, [queued_again(cell.attributes) for cell in again])
        return again

    @defer_signals()
    def cancel(self, cells: Sequence[StoredCell]) -> list[StoredCell]:
        """Cancel waiting cells, and ask the workers of running ones to stop; returns those that had not ended."""
        open_now = [cell for cell in cells if cell.state.status.open]
        for cell in open_now:
            folder = self.folder / cell.state.config_hash
            lease = None if cell.state.status is CellStatus.RUNNING else Lease.take(folder)
            if lease is None:
                folder.mkdir(exist_ok=True)
                (folder / CANCEL_FILE).touch()
                continue
            trial_id = cell.state.trial_id
            if cell.state.status is CellStatus.INTERRUPTED:
                (trial_id,) = add_cells(self.study, self.definition, [queued_again(cell.attributes)])
            end_trial(storage_of(self.study), trial_id, CellStatus.CANCELLED, "cancelled")
            lease.release()
        return open_now


def open_existing(runs: Path, storage: str | None, *, reads: bool = False) -> BaseStorage | None:
    """The storage, without making its file; None: there is no file. See `backend.open_storage`."""
    path = runs / "optuna.db" if storage is None else None
    for prefix in (SQLITE, JOURNAL):
        if storage is not None and storage.startswith(prefix):
            path = Path(storage.removeprefix(prefix))
    return None if path is not None and not path.exists() else open_storage(storage, runs, reads=reads)


def study_names(runs: Path, storage: str | None) -> list[str]:
    """The studies in a storage whose folders are in the folder of runs."""
    opened = open_existing(runs, storage, reads=True)
    found = () if opened is None else opened.get_all_studies()
    return sorted(study.study_name for study in found if (runs / study.study_name).is_dir())


def missing(name: str | None, runs: Path, storage: str | None) -> StudyError:
    """The refusal of a study that does not exist, with those that do."""
    names = ", ".join(study_names(runs, storage))
    if name is None and names:
        return StudyError(f"name a study with study=NAME; those under {runs} are {names}")
    there = f"those under it are {names}" if names else "run it first"
    what = "no study" if name is None else f"no study {name}"
    return StudyError(f"there is {what} under {runs}: {there}, or give paths.runs=FOLDER")


def with_values(cells: Sequence[StoredCell], values: Mapping[str, Any]) -> list[StoredCell]:
    """The cells that have these values of the fields that the study varies; other fields are the same in all cells."""
    wanted = {field: json.loads(json.dumps(value)) for field, value in values.items()}
    return [c for c in cells if all(c.point[field] == value for field, value in wanted.items() if field in c.point)]
