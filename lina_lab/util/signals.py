"""Ctrl-C and SIGTERM: as exceptions, and not where they would leave something half done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Make SIGTERM a SystemExit, so that what was started is told."""

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
    """Let Ctrl-C and SIGTERM come when the block has ended. A second one does not wait.

    For what a process does to a database of its own: a KeyboardInterrupt within SQLAlchemy can leave a session that
    never works again, and a transaction that locks everybody out, this process too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted: list[int] = []
    # None is a handler that was not set from Python, and could not be set again.
    before = {number: handler for number in STOPS if (handler := signal.getsignal(number)) is not None}

    def let_go() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        if len(noted) == 2:
            let_go()
            # Both: a block around this one counts too.
            for each in noted:
                signal.raise_signal(each)

    try:
        for number in before:
            signal.signal(number, note)
        yield
    finally:
        let_go()
        if len(noted) == 1:
            signal.raise_signal(noted[0])


def signals_deferred_for(uri: str) -> AbstractContextManager[None]:
    """`held` for a tracking store that this process writes by itself; not for a server, which may be long away."""
    return defer_signals() if uri.startswith("sqlite:") else nullcontext()
