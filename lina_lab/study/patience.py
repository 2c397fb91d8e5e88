"""Waits for a store that is locked or away: the queue and the tracker alike."""

import re
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from time import monotonic, sleep
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from lina_lab.util.errors import StudyError, causes, explanation, fault_of, first_line
from lina_lab.util.signals import stop_if_asked


class Queue(Protocol):
    """What holds the queue."""

    tell: Callable[[str], None]
    runs: Path


T = TypeVar("T")
P = ParamSpec("P")
Q = TypeVar("Q", bound=Queue)

PATIENCE_SECONDS = 600.0
"""How long a store that does not answer is waited for."""
PAUSE_SECONDS = 2.0


def _why(error: BaseException) -> str:
    """Which server does not answer and why, in a clause: MLflow names its address in a page of Python."""
    address = re.search(r"https?://[^/\s]+", str(error))
    reasons = [link.strerror for link in causes(error) if isinstance(link, OSError) and link.strerror]
    return f"{f' at {address[0]}' if address else ''} ({reasons[-1].lower() if reasons else first_line(error)})"


def patiently(
    action: Callable[[], T], tell: Callable[[str], None], runs: Path, *, store: str = "the tracking store"
) -> T:
    """What `action` returns, retried while a store is locked or does not answer.

    Args:
        action: something that may be done twice.
        tell: called with a line when the waiting begins.
        runs: folder of all results.
        store: the store's name in sentences.

    Raises:
        StudyError: the store did not come back.
        Exception: what `action` raises and waiting does not end.
    """
    start, announced = monotonic(), False
    while True:
        try:
            return action()
        except Exception as error:
            fault = fault_of(error, runs)
            if fault is None or not fault.passes:
                raise
            if monotonic() - start > PATIENCE_SECONDS:
                raise StudyError(
                    f"{store} did not answer for {PATIENCE_SECONDS / 60:.0f} minutes ({explanation(error, runs)}): "
                    "bring it back and run the same command again; what is trained is kept"
                ) from error
            if not announced:
                tell(f"waiting for {store}{_why(error)}, for up to {PATIENCE_SECONDS / 60:.0f} minutes")
                announced = True
            stop_if_asked()
            sleep(PAUSE_SECONDS)


def patient(method: Callable[Concatenate[Q, P], T]) -> Callable[Concatenate[Q, P], T]:
    """A method, which may be done twice, that waits while the queue is locked or does not answer."""

    @wraps(method)
    def wrapper(self: Q, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return patiently(partial(method, self, *args, **kwargs), self.tell, self.runs, store="the queue")

    return wrapper
