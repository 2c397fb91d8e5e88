"""What the process that launches a group and the processes in it tell each other: files in the trial's folder.

Imports no torch: the launching side has no use for it.
"""

import errno
import json
import os
import re
import signal
import socket
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lina_lab.config import ResourcesConfig, from_dict, to_dict
from lina_lab.records.files import GROUP_FILE, LOGS, OUTCOME_FILE, PROGRESS_FILE
from lina_lab.records.result import TrialResult
from lina_lab.util.files import write_atomically

Engine = Literal["torchrun", "slurm"]
COMMUNICATION = re.compile(
    r"gloo|nccl|c10d|process group|ProcessGroup|TCPStore|connection (reset|refused|closed)|broken pipe|timed? ?out",
    re.IGNORECASE,
)
"""In the error of a rank that lost another one: a consequence, not the cause."""


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """One attempt of a group at a trial."""

    attempt: str
    """Its name: what another attempt left is not taken for this one's."""
    engine: Engine
    tracking: tuple[str, str] | None
    resources: ResourcesConfig

    def write(self, folder: Path) -> None:
        """Leave the order in the trial's folder, and nothing that an earlier attempt said."""
        for path in (folder / OUTCOME_FILE, folder / PROGRESS_FILE, *(folder / LOGS).glob("*.json")):
            path.unlink(missing_ok=True)
        (folder / LOGS).mkdir(exist_ok=True)
        write_atomically(folder / GROUP_FILE, json.dumps({**asdict(self), "resources": to_dict(self.resources)}))

    @classmethod
    def read(cls, folder: Path) -> "LaunchSpec":
        """The order in a trial's folder."""
        data = json.loads((folder / GROUP_FILE).read_text())
        resources = from_dict(ResourcesConfig, data["resources"])
        tracking = None if data["tracking"] is None else tuple(data["tracking"])
        return cls(**{**data, "resources": resources, "tracking": tracking})


@dataclass(frozen=True, kw_only=True)
class RankError:
    """An error of a rank, as plain data."""

    sentence: str
    number: int | None = None
    """errno, of an error of the operating system."""
    filename: str | None = None
    consequence: bool = False
    """It only says that another rank was lost."""

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
        """The operating system's error behind it, for those who explain errors."""
        if self.number is None:
            return None
        return OSError(self.number, os.strerror(self.number), self.filename)


@dataclass(frozen=True, kw_only=True)
class RankStatus:
    """What a rank says of itself."""

    attempt: str
    rank: int
    host: str
    pid: int
    state: Literal["running", "ended", "failed"]
    time: float
    """Seconds since 1970, by the host's own clock."""
    fault: RankError | None = None
    trace: str = ""

    def write(self, folder: Path) -> None:
        """Leave the note."""
        write_atomically(folder / LOGS / f"rank-{self.rank}.json", json.dumps(asdict(self)))

    @classmethod
    def make(
        cls, order: LaunchSpec, rank: int, error: BaseException | None = None, *, ended: bool = False
    ) -> "RankStatus":
        """This process' note, as of now."""
        return cls(
            attempt=order.attempt,
            rank=rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            state="failed" if error is not None else "ended" if ended else "running",
            time=time.time(),
            fault=None if error is None else RankError.of(error),
            trace="" if error is None else "".join(traceback.format_exception(error)),
        )


@dataclass(frozen=True, kw_only=True)
class ProcessExit:
    """How a rank's process ended, as its parent saw it."""

    rank: int
    code: int
    """Negative: the signal that killed it."""
    host: str


class GroupError(RuntimeError):
    """A group ended without an outcome.

    Args:
        sentence: what went wrong first, where.
        again: whether it may go well the next time: a process or a machine was lost, not an error of the trial.
    """

    def __init__(self, sentence: str, *, again: bool) -> None:
        super().__init__(sentence)
        self.again = again


def read_notes(folder: Path, attempt: str) -> list[RankStatus]:
    """What the ranks of an attempt have said."""
    return list(_notes(folder, attempt))


def _notes(folder: Path, attempt: str) -> Iterator[RankStatus]:
    for path in sorted((folder / LOGS).glob("rank-*.json")):
        data = json.loads(path.read_text())
        if data["attempt"] == attempt:
            fault = None if data["fault"] is None else RankError(**data["fault"])
            yield RankStatus(**{**data, "fault": fault})


def first_error(folder: Path, order: LaunchSpec, exits: Iterable[ProcessExit], otherwise: str) -> GroupError:
    """What went wrong first: an error of a rank's own; else a process that was killed; else that others were lost.

    Args:
        folder: the trial's.
        order: the attempt.
        exits: processes whose parents saw them end badly.
        otherwise: what is known if no rank has said anything.
    """
    notes = read_notes(folder, order.attempt)
    failed = sorted((note for note in notes if note.fault is not None), key=lambda note: note.time)
    own = next((note for note in failed if note.fault is not None and not note.fault.consequence), None)
    if own is not None:
        assert own.fault is not None
        error = GroupError(f"rank {own.rank} on {own.host}: {own.fault.sentence}", again=False)
        error.__cause__ = own.fault.cause()
        error.add_note(own.trace)
        return error
    spoke = {note.rank for note in failed}
    for end in exits:
        if end.code < 0 and end.rank not in spoke:
            how = signal.Signals(-end.code).name
            return GroupError(f"rank {end.rank} on {end.host} was killed by {how}", again=True)
    silent = [note for note in notes if note.state == "running"]
    if failed and silent:
        lost = silent[0]
        return GroupError(f"rank {lost.rank} on {lost.host} was lost ({otherwise})", again=True)
    if failed:
        assert failed[0].fault is not None
        sentence = f"rank {failed[0].rank} on {failed[0].host}: {failed[0].fault.sentence}"
        return GroupError(sentence, again=True)
    return GroupError(otherwise, again=True)


def write_outcome(folder: Path, order: LaunchSpec, result: TrialResult) -> None:
    """Leave what the trial came to."""
    write_atomically(folder / OUTCOME_FILE, json.dumps({"attempt": order.attempt, "result": asdict(result)}))


def read_outcome(folder: Path, order: LaunchSpec) -> TrialResult | None:
    """What the attempt came to; None: nothing, so far."""
    data = _read(folder / OUTCOME_FILE)
    return None if data is None or data["attempt"] != order.attempt else TrialResult.from_dict(data["result"])


def read_progress(folder: Path) -> tuple[int, float] | None:
    """Images seen and the loss, as the first rank last said."""
    data = _read(folder / PROGRESS_FILE)
    return None if data is None else (int(data["images"]), float(data["loss"]))


def write_progress(folder: Path, images: int, loss: float) -> None:
    """Say how far the trial is."""
    draft = folder / f"{PROGRESS_FILE}.draft"
    draft.write_text(json.dumps({"images": images, "loss": loss}))
    draft.replace(folder / PROGRESS_FILE)


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        data: Mapping[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except OSError as error:
        # A network file system, when another host replaced the file.
        if error.errno == errno.ESTALE:
            return None
        raise
    return data


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
