"""Faster imports of large libraries, and faster collections and a faster exit of processes that have imported them."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused(*, freeze_at_end: bool = True) -> Iterator[None]:
    """Pause garbage collection within the block, which makes many objects that stay.

    Torch, Lightning and MLflow make about a million of them; scanning them again and again takes a sixth of the time of
    their import.

    Args:
        freeze_at_end: skip the collection when the process ends, too.
    """
    were_collected = gc.isenabled()
    gc.disable()
    if freeze_at_end:
        # Registered before the functions of the libraries, so it is called after them; and once.
        atexit.unregister(_freeze)
        atexit.register(_freeze)
    try:
        yield
    finally:
        if were_collected:
            gc.enable()


def free_cycles() -> None:
    """Free now what refers to itself and nobody else refers to, and its memory on a GPU.

    Lightning's trainer, the model and the data are such a cycle when a trial has ended. Python itself would free it
    many trials later. What survives is never looked at again, so call it where no trial and no error is under way. A
    call takes as long as looking at what was made since the one before: the million objects of torch and MLflow are
    looked at once.
    """
    gc.collect()
    gc.freeze()


def _freeze() -> None:
    """Leave all objects to the operating system: freeing them takes as long as importing torch.

    Not databases: SQLite removes its log when the last connection is closed.
    """
    if "sqlalchemy" in sys.modules:
        from sqlalchemy import Engine

        # `free_cycles` has hidden those that were open then.
        gc.unfreeze()
        for found in gc.get_objects():
            if type(found) is Engine:
                found.dispose()
    gc.freeze()
