"""Faster imports of large libraries, and a faster exit of processes that have imported them."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause garbage collection within the block, and skip it when the process ends.

    Torch, Lightning and MLflow make about a million objects that stay, and scanning them again and again takes a sixth
    of the time of their import.
    """
    were_collected = gc.isenabled()
    gc.disable()
    # Registered before the functions of the libraries, so it is called after them.
    freeze_at_exit()
    try:
        yield
    finally:
        if were_collected:
            gc.enable()


def freeze_at_exit() -> None:
    """Do not free objects when this process ends: that takes as long as importing torch."""
    atexit.unregister(_freeze)
    atexit.register(_freeze)


def _freeze() -> None:
    """Leave all objects to the operating system, except databases: SQLite removes its log when the last connection is
    closed."""
    if "sqlalchemy" in sys.modules:
        from sqlalchemy import Engine

        for found in gc.get_objects():
            if type(found) is Engine:
                found.dispose()
    gc.freeze()
