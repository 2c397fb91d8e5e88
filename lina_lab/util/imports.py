"""Imports of large libraries, and the end of processes that have them, in less time."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """Import within: nothing is looked through for garbage meanwhile, nor when the process ends.

    Torch, Lightning and MLflow make about a million objects that stay, and going through them again and again takes a
    sixth of the time of their import.
    """
    were_collected = gc.isenabled()
    gc.disable()
    # Before what the libraries register themselves: it is then called behind that.
    freeze_at_exit()
    try:
        yield
    finally:
        if were_collected:
            gc.enable()


def freeze_at_exit() -> None:
    """Have this process not take its objects apart when it ends, which takes as long as importing torch."""
    atexit.unregister(_freeze)
    atexit.register(_freeze)


def _freeze() -> None:
    """Have the interpreter leave all that is there to the operating system, but for databases: SQLite removes its log
    when the last connection is closed."""
    if "sqlalchemy" in sys.modules:
        from sqlalchemy import Engine

        for found in gc.get_objects():
            if type(found) is Engine:
                found.dispose()
    gc.freeze()
