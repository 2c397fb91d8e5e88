"""One cell by a group of processes: start it, follow it, start it again when it dies, read what it came to."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from lina_lab.config import ResourcesConfig, TrialConfig
from lina_lab.launch.contract import Engine as EngineName
from lina_lab.launch.contract import GroupError, LaunchSpec, ProcessExit, first_error, read_outcome, read_progress
from lina_lab.launch.select import Tracking
from lina_lab.records.result import TrialResult

LOOK_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class GroupExit:
    """How a group ended, as far as can be seen from outside."""

    exits: Sequence[ProcessExit] = ()
    """Processes that ended badly, the first one first."""
    sentence: str = "the processes ended without a result"
    well: bool = False
    """All processes ended by themselves, with exit code 0."""


class Running(Protocol):
    """A group at work."""

    def look(self) -> GroupExit | None:
        """How it ended; None while it works. What belongs to it has ended too when this says so."""

    def stop(self) -> None:
        """Ask it to save its state and end, and see to it that it ends."""


class Engine(Protocol):
    """Starts groups."""

    name: EngineName

    def start(self, folder: Path, order: LaunchSpec) -> Running:
        """Start the group that an order in a cell's folder describes.

        Raises:
            StudyError: the machines for it are not to be had.
        """

    def resume(self, folder: Path) -> tuple[Running, LaunchSpec] | None:
        """A group that is at work at the cell already, started by a process that is gone; None: there is none."""

    def close(self) -> None:
        """No group will be started any more."""


class GroupLaunch:
    """Trains cells by groups of processes; see `launch.Launch`.

    Args:
        engine: starts them.
        resources: the layout.
        tell: is told when a group is started again.
    """

    def __init__(self, engine: Engine, resources: ResourcesConfig, tell: Callable[[str], None]) -> None:
        self.engine, self.resources, self.tell = engine, resources, tell

    def __call__(
        self, config: TrialConfig, folder: Path, *, tracking: Tracking | None, report: Callable[[int, float], None]
    ) -> TrialResult:
        self.resources.check_batch(config.data.batch_size)
        troubles: list[str] = []
        while True:
            try:
                result = self._attempt(folder, tracking, report)
            except GroupError as error:
                if not error.again or len(troubles) == self.resources.max_restarts:
                    raise
                troubles.append(f"the group was started again: {error}")
                self.tell(troubles[-1])
                continue
            return _with_problems(result, troubles)

    def _attempt(self, folder: Path, tracking: Tracking | None, report: Callable[[int, float], None]) -> TrialResult:
        found = self.engine.resume(folder)
        if found is None:
            order = LaunchSpec(
                attempt=uuid.uuid4().hex, engine=self.engine.name, tracking=tracking, resources=self.resources
            )
            order.write(folder)
            found = self.engine.start(folder, order), order
        running, order = found
        try:
            ended, last = None, None
            while ended is None:
                ended = running.look()
                progress = read_progress(folder)
                if progress is not None and progress != last:
                    report(*progress)
                    last = progress
                if ended is None:
                    time.sleep(LOOK_SECONDS)
        except BaseException:
            running.stop()
            raise
        result = read_outcome(folder, order)
        if result is None:
            raise first_error(folder, order, ended.exits, ended.sentence)
        if result.status == "preempted":
            raise GroupError(f"{result.error}" + ("" if ended.well else f" ({ended.sentence})"), again=True)
        return result


def _with_problems(result: TrialResult, troubles: Sequence[str]) -> TrialResult:
    return replace(result, problems=(*result.problems, *troubles))
