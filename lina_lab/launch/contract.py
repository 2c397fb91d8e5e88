"""What the parts of this package share: protocols, and the files through which a launcher and its ranks communicate.

A launcher starts processes and never trains as a rank of a group; a rank has a frozen configuration and one MLflow run,
and knows nothing of the study. The files lie in the cell's folder. Imports no torch: a launcher has no use for it.
"""

import errno
import json
import os
import re
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from lina_lab.config import ResourcesConfig, TrialConfig, from_stored, to_dict
from lina_lab.records.files import GROUP_FILE, JOB_FILE, LOGS, OUTCOME_FILE, PROGRESS_FILE, REQUEUE_FILE
from lina_lab.records.result import Progress, Report, TrialResult
from lina_lab.records.runstore import TrackingRun
from lina_lab.records.status import RankState
from lina_lab.util.errors import StudyError, causes
from lina_lab.util.files import read_json, write_atomically

COMMUNICATION = re.compile(
    r"gloo|nccl|c10d|process group|ProcessGroup|TCPStore|connection (reset|refused|closed)|broken pipe|timed? ?out",
    re.IGNORECASE,
)
"""Matches the message of a rank that lost another one, which is a consequence and not the cause: torch 2.14 raises a
plain RuntimeError for most of these."""


class EngineName(StrEnum):
    """What starts the processes of a group."""

    TORCHRUN = "torchrun"
    SLURM = "slurm"


@dataclass(frozen=True, kw_only=True)
class LaunchContext:
    """What launching needs to know of a study."""

    study: str
    """The study's name."""
    resources: ResourcesConfig
    folder: Path
    """The study's folder; those of its cells are in it."""
    cells: str
    """How many cells, and a hash of them: the same on all machines."""
    data_workers: int = 0
    """The largest `data.workers` of its cells: data loader processes of each rank."""


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """One attempt of a group at a cell."""

    attempt: str
    """Its name; files of another attempt are ignored."""
    engine: EngineName
    tracking: TrackingRun | None
    resources: ResourcesConfig
    versions: dict[str, str] = field(default_factory=dict)
    """Code and packages of the launcher, which each rank must have; empty in a spec of an earlier version."""

    def write(self, folder: Path) -> None:
        """Write the spec into the cell's folder, and remove what an earlier attempt left there."""
        left = [folder / name for name in (OUTCOME_FILE, PROGRESS_FILE, REQUEUE_FILE)]
        for path in (*left, *(folder / LOGS).glob("*.json")):
            path.unlink(missing_ok=True)
        (folder / LOGS).mkdir(exist_ok=True)
        # `tracking` is a list in this file since version 0.1.
        tracking = None if self.tracking is None else [self.tracking.uri, self.tracking.run_id]
        data = {**asdict(self), "resources": to_dict(self.resources), "tracking": tracking}
        write_atomically(folder / GROUP_FILE, json.dumps(data))

    @classmethod
    def read(cls, folder: Path) -> "LaunchSpec":
        """The spec in a cell's folder, of this version or an earlier one."""
        data = read_json(folder / GROUP_FILE)
        data["engine"] = EngineName(data["engine"])
        data["resources"] = from_stored(ResourcesConfig, data["resources"], within="study.resources")
        if data["tracking"] is not None:
            uri, run_id = data["tracking"]
            data["tracking"] = TrackingRun(uri=uri, run_id=run_id)
        return cls(**data)


@dataclass(frozen=True, kw_only=True)
class ProcessExit:
    """How a rank's process ended, as its parent saw it."""

    rank: int
    code: int
    """Negative: the signal that killed it."""
    host: str


@dataclass(frozen=True, kw_only=True)
class GroupExit:
    """How a group, or a machine's part of one, ended, as its launcher saw it."""

    exits: Sequence[ProcessExit] = ()
    """Processes that failed, the first one first."""
    sentence: str = "the processes ended without a result"
    well: bool = False
    """All processes ended by themselves, with exit code 0."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "GroupExit":
        """The exit from what `dataclasses.asdict` and JSON made of it.

        Raises:
            KeyError, TypeError: the data are not an exit.
        """
        return cls(**{**data, "exits": [ProcessExit(**end) for end in data["exits"]]})


class Running(Protocol):
    """A group that was started."""

    def look(self) -> GroupExit | None:
        """How it ended; None while it runs. All its processes have ended when this says so."""

    def stop(self) -> None:
        """Ask it to save its state and end, and make sure that it ends."""


class Engine(Protocol):
    """Starts groups."""

    name: EngineName

    def start(self, folder: Path, spec: LaunchSpec) -> Running:
        """Start the group that a spec in a cell's folder describes.

        Raises:
            StudyError: the machines for it are not available.
        """

    def resume(self, folder: Path) -> tuple[Running, LaunchSpec] | None:
        """A group that trains the cell already, started by a process that is gone; None: there is none.

        None for most engines: their groups end with the process that started them.
        """
        return None

    def close(self) -> None:
        """Release what groups are started with. No group will be started any more."""
        return


class Launch(Protocol):
    """Trains one cell in `folder` and returns its result; an error of the cell is raised.

    `resources` are the cell's own, on the machines of the study's; None: the study's.
    """

    def __call__(
        self,
        config: TrialConfig,
        folder: Path,
        *,
        tracking: TrackingRun | None,
        report: Report,
        resources: ResourcesConfig | None = None,
    ) -> TrialResult: ...


Launcher = Callable[[], AbstractContextManager[Launch]]
"""Makes what trains cells, for as long as cells are trained; nothing is started before it is called."""


@dataclass(frozen=True, kw_only=True)
class RankError:
    """An error of a rank, as plain data."""

    sentence: str
    number: int | None = None
    """errno, of an error of the operating system."""
    filename: str | None = None
    consequence: bool = False
    """The error only says that another rank was lost."""

    @classmethod
    def of(cls, error: BaseException) -> "RankError":
        """The plain data of an error."""
        chain = list(causes(error))
        system = next((link for link in chain if isinstance(link, OSError) and link.errno is not None), None)
        lost = any(type(link).__name__.startswith("Dist") for link in chain)
        return cls(
            sentence=f"{type(error).__name__}: {error}"[:2000],
            number=None if system is None else system.errno,
            filename=None if system is None or system.filename is None else str(system.filename),
            consequence=lost or (isinstance(error, RuntimeError) and COMMUNICATION.search(str(error)) is not None),
        )

    def cause(self) -> OSError | None:
        """The operating system's error that led to it, for `util.errors.fault_of`."""
        return None if self.number is None else OSError(self.number, os.strerror(self.number), self.filename)


@dataclass(frozen=True, kw_only=True)
class RankStatus:
    """A rank's note on itself."""

    attempt: str
    rank: int
    host: str
    pid: int
    state: RankState
    time: float
    """Seconds since 1970, by the host's own clock."""
    fault: RankError | None = None
    trace: str = ""

    def write(self, folder: Path) -> None:
        """Write the note into the cell's folder."""
        write_atomically(folder / LOGS / f"rank-{self.rank}.json", json.dumps(asdict(self)))

    @classmethod
    def make(
        cls, spec: LaunchSpec, rank: int, error: BaseException | None = None, *, ended: bool = False
    ) -> "RankStatus":
        """This process' note, as of now."""
        return cls(
            attempt=spec.attempt,
            rank=rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            state=RankState.FAILED if error is not None else RankState.ENDED if ended else RankState.RUNNING,
            time=time.time(),
            fault=None if error is None else RankError.of(error),
            trace="" if error is None else "".join(traceback.format_exception(error)),
        )


def read_notes(folder: Path, attempt: str) -> list[RankStatus]:
    """The notes of an attempt's ranks."""
    notes = []
    for path in sorted((folder / LOGS).glob("rank-*.json")):
        data = read_json(path)
        if data["attempt"] == attempt:
            fault = None if data["fault"] is None else RankError(**data["fault"])
            notes.append(RankStatus(**{**data, "state": RankState(data["state"]), "fault": fault}))
    return notes


def write_outcome(folder: Path, spec: LaunchSpec, result: TrialResult) -> None:
    """Write an attempt's result."""
    write_atomically(folder / OUTCOME_FILE, json.dumps({"attempt": spec.attempt, "result": asdict(result)}))


def read_outcome(folder: Path, spec: LaunchSpec) -> TrialResult | None:
    """An attempt's result; None: there is none so far."""
    data = read_message(folder / OUTCOME_FILE)
    return None if data is None or data["attempt"] != spec.attempt else TrialResult.from_dict(data["result"])


def read_progress(folder: Path) -> Progress | None:
    """How far the first rank last said it is; None: it has said nothing."""
    data = read_message(folder / PROGRESS_FILE)
    return None if data is None else Progress.from_dict(data)


def write_progress(folder: Path, progress: Progress) -> None:
    """Say how far the trial is. Unlike other files this one may be lost in a crash, so nothing waits for the disk."""
    write_atomically(folder / PROGRESS_FILE, json.dumps(asdict(progress)), durable=False)


def read_message(path: Path) -> dict[str, Any] | None:
    """What a process wrote for another one; None: nothing so far, or another host is replacing it (ESTALE)."""
    try:
        data: dict[str, Any] = read_json(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return None
        raise
    return data


def refuse_job(folder: Path) -> None:
    """Leave a cell alone that a job of a cluster may be training.

    Raises:
        StudyError: which job.
    """
    path = folder / JOB_FILE
    if path.exists():
        number = read_json(path)["job"]
        raise StudyError(
            f"the cell {folder.name} was given to job {number} of a cluster: continue with launcher=slurm, or scancel "
            f"{number} and remove {path}"
        )
