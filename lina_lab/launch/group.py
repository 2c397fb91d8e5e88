"""One cell by a group of processes: start it, follow it, restart it when it dies, read its result."""

import signal
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from lina_lab.config import ResourcesConfig, TrialConfig
from lina_lab.launch.contract import Engine, LaunchSpec, ProcessExit, read_notes, read_outcome, read_progress
from lina_lab.records.result import Report, TrialResult
from lina_lab.records.runstore import TrackingRun
from lina_lab.records.status import RankState, TrialStatus
from lina_lab.util.code_versions import code_versions
from lina_lab.util.signals import stop_if_asked

LOOK_SECONDS = 0.2


class GroupError(RuntimeError):
    """A group ended without a result.

    Args:
        sentence: the root cause, and where.
        again: whether the next attempt may succeed: a process or a machine was lost, and it is not the trial's error.
    """

    def __init__(self, sentence: str, *, again: bool) -> None:
        super().__init__(sentence)
        self.again = again


class GroupLaunch:
    """Trains cells by groups of processes; a `contract.Launch`.

    Args:
        engine: starts the groups.
        resources: the layout of the ranks.
        tell: called with a line when a group is restarted.
    """

    def __init__(self, engine: Engine, resources: ResourcesConfig, tell: Callable[[str], None]) -> None:
        self.engine, self.resources, self.tell = engine, resources, tell

    def __call__(
        self,
        config: TrialConfig,
        folder: Path,
        *,
        tracking: TrackingRun | None,
        report: Report,
        resources: ResourcesConfig | None = None,
    ) -> TrialResult:
        resources = resources or self.resources
        resources.check_batch(config.data.batch_size)
        restarts: list[str] = []
        while True:
            try:
                result = self._attempt(folder, tracking, report, resources)
            except GroupError as error:
                if not error.again or len(restarts) == resources.max_restarts:
                    raise
                restarts.append(f"the group was restarted: {error}")
                self.tell(restarts[-1])
                continue
            return replace(result, problems=(*result.problems, *restarts))

    def _attempt(
        self, folder: Path, tracking: TrackingRun | None, report: Report, resources: ResourcesConfig
    ) -> TrialResult:
        found = self.engine.resume(folder)
        if found is None:
            attempt = uuid.uuid4().hex
            spec = LaunchSpec(
                attempt=attempt,
                engine=self.engine.name,
                tracking=tracking,
                resources=resources,
                versions=code_versions(),
            )
            spec.write(folder)
            found = self.engine.start(folder, spec), spec
        running, spec = found
        try:
            ended, last = None, None
            while ended is None:
                stop_if_asked()
                ended = running.look()
                progress = read_progress(folder)
                if progress is not None and progress != last:
                    report(progress)
                    last = progress
                if ended is None:
                    time.sleep(LOOK_SECONDS)
        except BaseException:
            running.stop()
            raise
        result = read_outcome(folder, spec)
        if result is None:
            raise root_cause(folder, spec, ended.exits, ended.sentence)
        if result.status is TrialStatus.PREEMPTED:
            raise GroupError(f"{result.error}" + ("" if ended.well else f" ({ended.sentence})"), again=True)
        return result


def root_cause(folder: Path, spec: LaunchSpec, exits: Iterable[ProcessExit], otherwise: str) -> GroupError:
    """Why a group failed: an error of a rank's own; else a process that was killed; else that others were lost.

    Args:
        folder: the cell's.
        spec: the attempt.
        exits: processes that failed, as their parents saw it.
        otherwise: what is known if no rank has left a note.
    """
    notes = read_notes(folder, spec.attempt)
    failed = sorted(((note, note.fault) for note in notes if note.fault), key=lambda failure: failure[0].time)
    for note, fault in failed:
        if not fault.consequence:
            error = GroupError(f"rank {note.rank} on {note.host}: {fault.sentence}", again=False)
            error.__cause__ = fault.cause()
            error.add_note(note.trace)
            return error
    with_note = {note.rank for note, _ in failed}
    for end in exits:
        if end.code < 0 and end.rank not in with_note:
            how = signal.Signals(-end.code).name
            return GroupError(f"rank {end.rank} on {end.host} was killed by {how}", again=True)
    silent = next((note for note in notes if note.state is RankState.RUNNING), None)
    if failed and silent is not None:
        return GroupError(f"rank {silent.rank} on {silent.host} was lost ({otherwise})", again=True)
    if failed:
        note, fault = failed[0]
        return GroupError(f"rank {note.rank} on {note.host}: {fault.sentence}", again=True)
    return GroupError(otherwise, again=True)
