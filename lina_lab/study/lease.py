"""Who works on a cell: a lock that the operating system frees with the process, and a heartbeat.

On one machine the lock is enough: a process that can take it knows that no process holds the cell. It needs no clock,
so neither a wrong clock nor a paused process loses a cell. The locks of another machine may not be visible on a network
file system, so its owner's heartbeat counts too: the owner is dead if its counter has stood still for a while by the
watcher's own clock.
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

from lina_lab.records.result import Progress
from lina_lab.util.files import write_atomically

LOCK_FILE, HEARTBEAT_FILE = "lease.lock", "lease.json"
BEAT_SECONDS = 2.0
GRACE_SECONDS = 60.0
"""How long the counter of an owner on another machine stands still until the owner counts as dead."""


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """An owner's note on itself."""

    host: str
    pid: int
    count: int
    """Grows by one with each beat."""
    progress: Progress | None = None
    """None: no step has ended."""

    def to_json(self) -> str:
        """The file's contents, with the names that they have since version 0.1."""
        progress = {"images": 0, "loss": None} if self.progress is None else asdict(self.progress)
        return json.dumps({"host": self.host, "pid": self.pid, "beat": self.count, **progress})

    @classmethod
    def from_json(cls, text: str) -> "Heartbeat":
        """The heartbeat from a file's contents.

        Raises:
            ValueError, KeyError, TypeError: the text is not a heartbeat.
        """
        data = json.loads(text)
        progress = None if data["loss"] is None else Progress.from_dict(data)
        return cls(host=data["host"], pid=data["pid"], count=data["beat"], progress=progress)


class Lease:
    """The right to work on a cell, from `take` to `release`."""

    def __init__(self, folder: Path, lock: FileLock) -> None:
        self.folder, self._lock = folder, lock
        self._progress: Progress | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def take(cls, folder: Path) -> "Lease | None":
        """The lease of the cell in `folder`; None while another process has it."""
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return cls(folder, lock)

    def beat(self) -> None:
        """Write a heartbeat now, and every two seconds from now on."""
        self._write(0)
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def progress(self, progress: Progress) -> None:
        """Set what the next heartbeat says of the cell."""
        self._progress = progress

    def release(self) -> None:
        """Free the cell for others."""
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            # Only its own heartbeat: that of an owner elsewhere, whose lock is not visible here, must stay.
            (self.folder / HEARTBEAT_FILE).unlink(missing_ok=True)
        self._lock.release()

    def _beat(self) -> None:
        count = 0
        while not self._ended.wait(BEAT_SECONDS):
            count += 1
            self._write(count)

    def _write(self, count: int) -> None:
        heartbeat = Heartbeat(host=socket.gethostname(), pid=os.getpid(), count=count, progress=self._progress)
        # A full disk is no reason to lose the cell: the lock holds without the heartbeat.
        with suppress(OSError):
            write_atomically(self.folder / HEARTBEAT_FILE, heartbeat.to_json())


def read_heartbeat(folder: Path) -> Heartbeat | None:
    """The last heartbeat of a cell's owner; None: there is none that can be read."""
    try:
        return Heartbeat.from_json((folder / HEARTBEAT_FILE).read_text())
    except (OSError, ValueError, KeyError, TypeError):
        return None


class StaleLeases:
    """Finds out which owners are dead, from the heartbeats that it has seen so far."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[Heartbeat, float]] = {}

    def acquire(self, folder: Path) -> Lease | None:
        """The lease of a cell whose owner is dead; None if the owner lives, or may live."""
        lease = Lease.take(folder)
        if lease is None:
            return None
        heartbeat = read_heartbeat(folder)
        if heartbeat is None or heartbeat.host == socket.gethostname() or self._stands_still(folder, heartbeat):
            return lease
        lease.release()
        return None

    def _stands_still(self, folder: Path, heartbeat: Heartbeat) -> bool:
        known, since = self._seen.get(folder, (None, 0.0))
        if known != heartbeat:
            self._seen[folder] = (heartbeat, time.monotonic())
            return False
        return time.monotonic() - since > GRACE_SECONDS
