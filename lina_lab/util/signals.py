"""Ctrl-C and SIGTERM: as exceptions, and not where they would leave a database in between."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Make SIGTERM a SystemExit, so that context managers and `finally` blocks run."""

    def handler(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
