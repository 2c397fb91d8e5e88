"""Ctrl-C and SIGTERM: as exceptions, and not where they would leave a database in between."""

import signal
import threading
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


@contextmanager
def defer_signals() -> Iterator[None]:
    """Deliver Ctrl-C and SIGTERM when the block has ended. A second one does not wait.

    For writes to a database file: a KeyboardInterrupt within SQLAlchemy can leave a session that never works again, and
    a transaction that locks all processes out, this one too.
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
        if len(noted) == 2:
            restore()
            # Both: a block around this one counts them too.
            for each in noted:
                signal.raise_signal(each)

    try:
        for number in before:
            signal.signal(number, note)
        yield
    finally:
        restore()
        if len(noted) == 1:
            signal.raise_signal(noted[0])


def signals_deferred_for(uri: str) -> AbstractContextManager[None]:
    """`defer_signals` for a tracking store in a file; nothing for a server, which may take minutes to answer."""
    return defer_signals() if uri.startswith("sqlite:") else nullcontext()
