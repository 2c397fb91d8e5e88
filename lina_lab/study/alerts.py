"""Runs the user's own command when a cell or the study has ended."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from lina_lab.config import AlertsConfig, StudyConfig
from lina_lab.records.status import CellStatus
from lina_lab.study.grid import Cell
from lina_lab.util.errors import first_line
from lina_lab.util.signals import defer_signals

LENGTH = 2000
"""Longest message: an environment has no room for a page."""


class Alerts:
    """Events that wait to be told, each at most once.

    A cell's event is noted in the moment in which the queue takes the end of its attempt, by the process from which the
    queue takes it. A process that is killed between that and the command leaves the command out; nothing repeats it.

    Args:
        config: the command, and for which events it is run.
        study: the study.
        folder: the study's.
        tell: called with a line when the command fails or is late. Neither changes anything else.
    """

    def __init__(self, config: AlertsConfig, study: StudyConfig, folder: Path, tell: Callable[[str], None]) -> None:
        self.config, self.study, self.folder, self.tell = config, study, folder, tell
        self._waiting: list[dict[str, str]] = []

    def note(
        self, cell: Cell, status: CellStatus, error: str | None = None, values: Sequence[float] | None = None
    ) -> None:
        """An attempt at a cell has ended, with an error or with the objectives, and that is recorded."""
        objectives = zip(self.study.objectives, values or (), strict=False)
        message = error or ", ".join(f"{objective.metric} {value:.4f}" for objective, value in objectives)
        self._note(status, "cell", cell.label, status, self.folder / cell.config_hash, message)

    def study_ended(self, status: CellStatus, message: str) -> None:
        """The command that runs the study ends: run the user's command."""
        self._note("study", "study", "", status, self.folder, message)
        self.send()

    def _note(self, name: str, event: str, cell: str, status: CellStatus, folder: Path, message: str) -> None:
        if self.config.command is None or name not in self.config.on:
            return
        values = {
            "event": event,
            "study": self.study.name,
            "cell": cell,
            "status": status.value,
            "folder": str(folder),
            # On one line, so that it can be the subject of a mail; and without what no environment can hold.
            "message": " ".join(message.replace("\0", " ").split())[:LENGTH],
        }
        self._waiting.append({name: value.encode(errors="replace").decode() for name, value in values.items()})

    def send(self) -> None:
        """Run the command for each event that waits. Ctrl-C waits for it, and a second one ends it."""
        while self._waiting:
            event = self._waiting.pop(0)
            with defer_signals():
                problem = self._run(event)
            if problem is not None:
                self.tell(f"alerts.command {problem} ({event['cell'] or 'study'} {event['status']})")

    def _run(self, event: dict[str, str]) -> str | None:
        """Run the command for an event; returns what went wrong."""
        assert self.config.command is not None
        variables = {f"LINA_{name.upper()}": value for name, value in event.items()}
        try:
            # Files, not pipes: what the command leaves in the background would keep a pipe open.
            with TemporaryFile() as told, TemporaryFile() as said:
                told.write(json.dumps(event).encode())
                told.seek(0)
                process = subprocess.Popen(
                    self.config.command,
                    shell=True,
                    env={**os.environ, **variables},
                    stdin=told,
                    stdout=said,
                    stderr=said,
                    start_new_session=True,
                )
                try:
                    code = process.wait(self.config.timeout_seconds)
                except subprocess.TimeoutExpired:
                    return f"took more than {self.config.timeout_seconds:g} s and was ended"
                finally:
                    if process.poll() is None:
                        _end(process)
                said.seek(0)
                lines = said.read().decode(errors="replace").strip().splitlines()
        except OSError as error:
            return f"could not be run: {first_line(error)}"
        return None if code == 0 else f"ended with exit code {code}" + (f": {lines[-1][:300]}" if lines else "")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a command with all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
