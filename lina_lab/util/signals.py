"""Ctrl-C and SIGTERM: as exceptions of which none is lost, and not where they would leave a database in between."""

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM)


AGAIN_SECONDS = 0.1
_asked: list[int] = []
"""The signals that asked this process to stop."""


@contextmanager
def stops_as_exceptions() -> Iterator[None]:
    """Make SIGTERM a SystemExit, as Ctrl-C is a KeyboardInterrupt, so that `finally` blocks run; no request is lost.

    What other code swallows is raised again by the next `stop_if_asked`, at the latest when the block ends. What Python
    drops comes again, see `dropped_stops_come_again`.
    """

    def handler(number: int, frame: Any) -> None:
        _asked.append(number)
        raise _exception(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Ctrl-C stays ignored below a shell that was started in the background.
    taken = [n for n in STOPS if n == signal.SIGTERM or signal.getsignal(n) is signal.default_int_handler]
    before = {number: signal.signal(number, handler) for number in taken}
    _asked.clear()
    try:
        with dropped_stops_come_again():
            yield
        stop_if_asked()
    except Exception as error:
        raise stop_or(error) from error.__cause__
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)
        _asked.clear()


def stop_if_asked() -> None:
    """Stop here if a signal has asked for it and its exception was swallowed: called where the work can stop safely.

    Raises:
        KeyboardInterrupt, SystemExit: as the signal within `stops_as_exceptions`.
    """
    if _asked and threading.current_thread() is threading.main_thread():
        raise _exception(_asked[0])


def stop_or(error: BaseException) -> BaseException:
    """The stop that a signal has asked for, where another error came of it; otherwise the error itself.

    Data workers that got the same signal make torch raise a RuntimeError, for example.
    """
    if not _asked or not isinstance(error, Exception):
        return error
    stop = _exception(_asked[0])
    stop.__context__ = error
    return stop


def _exception(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


DEADLINE = "LINA_DEADLINE"
"""The variable by which a process that starts workers tells them when its time is over, by the machine's own clock."""


class TimeLimit:
    """Asks this process to stop in order, as on SIGTERM, after some minutes; used as a context.

    Args:
        minutes: the limit; None: there is none.
    """

    def __init__(self, minutes: float | None) -> None:
        self.minutes, self.passed = minutes, False
        self._timer = None if minutes is None else threading.Timer(60 * minutes, self._stop)

    def _stop(self) -> None:
        self.passed = True
        os.kill(os.getpid(), signal.SIGTERM)

    def __enter__(self) -> "TimeLimit":
        if self.minutes is not None and self._timer is not None:
            os.environ[DEADLINE] = repr(time.monotonic() + 60 * self.minutes)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            os.environ.pop(DEADLINE, None)


def stop_reason(stop: BaseException) -> str:
    """Why an exception of `stops_as_exceptions` stops this process, as a clause for people."""
    if not isinstance(stop, SystemExit):
        return "stopped by hand"
    deadline = os.environ.get(DEADLINE)
    over = deadline is not None and time.monotonic() >= float(deadline)
    return "the time of the command was over (max_minutes)" if over else "terminated (SIGTERM)"


PARENT = "LINA_PARENT"
"""The variable by which a process that starts workers gives them its number."""
PARENT_SECONDS = 1.0


def stop_with_parent() -> None:
    """Have this worker stop in order, as on SIGTERM, when the process that has started it is gone."""
    if (parent := os.environ.get(PARENT)) is None:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(PARENT_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


@contextmanager
def dropped_stops_come_again() -> Iterator[None]:
    """Send a signal again whose exception Python has dropped: it was raised within a destructor or a callback of C."""
    before = sys.unraisablehook

    def hook(dropped: Any) -> None:
        number = _signal_of(dropped.exc_value)
        if number is None:
            before(dropped)
        else:
            # Not `threading.Thread`, which waits for a lock that the interrupted code may hold.
            _thread.start_new_thread(_send_again, (number,))

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _signal_of(error: BaseException | None) -> int | None:
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    if isinstance(error, SystemExit):
        return signal.SIGTERM if error.code == 128 + signal.SIGTERM else None
    # `torch.distributed.elastic`'s SignalException.
    return getattr(error, "sigval", None)


def _send_again(number: int) -> None:
    time.sleep(AGAIN_SECONDS)
    os.kill(os.getpid(), number)


IMPATIENCE_SECONDS = 2.0
"""A signal that comes so long after the first one does not wait."""
_waiting: list[float] = []
"""When the signals that wait came: of the main thread, which alone gets any."""
_blocks: list[object] = []
"""The blocks that defer signals, the outermost first."""


@contextmanager
def defer_signals() -> Iterator[None]:
    """Deliver Ctrl-C and SIGTERM when the block has ended, unless one comes again after `IMPATIENCE_SECONDS`.

    For writes to a database file: a KeyboardInterrupt within SQLAlchemy can leave a session that never works again, and
    a transaction that locks all processes out, this one too. A terminal's Ctrl-C reaches a worker twice, directly and
    from the pool that stops it, so a second signal alone is no sign of impatience.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted: list[int] = []
    # None is a handler that was not set from Python, which could not be restored.
    before = {number: handler for number in STOPS if (handler := signal.getsignal(number)) is not None}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        _waiting.append(time.monotonic())
        if _waiting[-1] - _waiting[0] >= IMPATIENCE_SECONDS:
            noted.clear()
            restore()
            signal.raise_signal(number)

    try:
        _blocks.append(note)
        for number in before:
            signal.signal(number, note)
        yield
    finally:
        restore()
        _blocks[:] = [block for block in _blocks if block is not note]
        if not _blocks:
            _waiting.clear()
        if noted:
            signal.raise_signal(noted[0])


def signals_deferred_for(uri: str) -> AbstractContextManager[None]:
    """`defer_signals` for a tracking store in a file; nothing for a server, which may take minutes to answer."""
    return defer_signals() if uri.startswith("sqlite:") else nullcontext()
