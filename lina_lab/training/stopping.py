"""Requests that end a trial before its budget, from outside."""

import signal
from dataclasses import dataclass
from typing import Any


class CancelledError(RuntimeError):
    """Somebody asked for the trial to end, or it has used up its time."""


class PrunedError(RuntimeError):
    """The study gives the trial up."""


class PreemptedError(RuntimeError):
    """The trial was asked to make room. Its state is saved."""


@dataclass
class StopSignals:
    """Signals that ask this process to stop, and which of them have come."""

    signals: tuple[signal.Signals, ...] = ()
    """Each of them asks to save the state and end."""
    leave: bool = False
    """One has come: save the state and end; the trial resumes elsewhere, or later."""
    terminated: bool = False
    """It was SIGTERM: its sender sees to what comes after."""

    def listen(self) -> None:
        """Take the signals from now on, whoever took them before.

        A handler only sets a flag: the ranks of a group are at different points, and what needs all of them would wait
        for ever.
        """
        for number in self.signals:
            signal.signal(number, self._take)

    def _take(self, number: int, frame: Any) -> None:
        self.leave, self.terminated = True, self.terminated or number == signal.SIGTERM
