"""Who works on a cell: a lock that the operating system frees with the process, and a note of how far it is.

On one machine the lock says all: whoever can take it knows that nobody holds the cell. It needs no clock, so that one
that is set wrong, or a process that was paused, takes a cell from nobody. Of an owner on another machine, whose locks a
file system may not show, the note's counter is watched too: it must have stood still for a while by the watcher's own
clock.
"""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from lina_lab.util.files import write_atomically

LOCK_FILE, HEARTBEAT_FILE = "lease.lock", "lease.json"
BEAT_SECONDS = 2.0
GRACE_SECONDS = 60.0
"""How long the counter of an owner on another machine stands still until it is taken for dead."""


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """What an owner says of itself."""

    host: str
    pid: int
    count: int
    """Grows by one with each beat."""
    images: int = 0
    loss: float | None = None


class Lease:
    """The right to work on a cell, from `take` to `release`."""

    def __init__(self, folder: Path, lock: FileLock) -> None:
        self.folder, self._lock = folder, lock
        self._progress: tuple[int, float | None] = (0, None)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def take(cls, folder: Path) -> "Lease | None":
        """The lease of the cell in `folder`; None while somebody has it."""
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return cls(folder, lock)

    def beat(self) -> None:
        """Say now, and from now on every two seconds, that the cell is worked on."""
        self._note(0)
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def progress(self, images: int, loss: float) -> None:
        """What the next beat says."""
        self._progress = (images, loss)

    def release(self) -> None:
        """Let others at the cell."""
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            # Only its own note: that of an owner elsewhere, whose lock is not seen here, must stay.
            (self.folder / HEARTBEAT_FILE).unlink(missing_ok=True)
        self._lock.release()

    def _beat(self) -> None:
        count = 0
        while not self._ended.wait(BEAT_SECONDS):
            count += 1
            self._note(count)

    def _note(self, count: int) -> None:
        images, loss = self._progress
        note = Heartbeat(host=socket.gethostname(), pid=os.getpid(), count=count, images=images, loss=loss)
        # A full disk is no reason to lose the cell: the lock holds without the note.
        with suppress(OSError):
            write_atomically(self.folder / HEARTBEAT_FILE, json.dumps(asdict(note)))


def read_heartbeat(folder: Path) -> Heartbeat | None:
    """What the owner of a cell last said; None if it said nothing."""
    try:
        return Heartbeat(**json.loads((folder / HEARTBEAT_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


class StaleLeases:
    """Tells which owners are dead, from what it has seen of them so far."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[Heartbeat, float]] = {}

    def take_stale(self, folder: Path) -> Lease | None:
        """The lease of a cell whose owner is dead; None if the owner lives, or may live."""
        lease = Lease.take(folder)
        if lease is None:
            return None
        note = read_heartbeat(folder)
        if note is None or note.host == socket.gethostname() or self._stands_still(folder, note):
            return lease
        lease.release()
        return None

    def _stands_still(self, folder: Path, note: Heartbeat) -> bool:
        known, since = self._seen.get(folder, (None, 0.0))
        if known != note:
            self._seen[folder] = (note, time.monotonic())
            return False
        return time.monotonic() - since > GRACE_SECONDS
