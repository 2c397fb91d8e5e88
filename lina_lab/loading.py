"""Imports of large libraries, in less time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Import within: nothing is looked through for garbage meanwhile.

    Torch, Lightning and MLflow make about a million objects that stay, and going through them again and again takes a
    sixth of the time of their import.
    """
    were_collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if were_collected:
            gc.enable()
