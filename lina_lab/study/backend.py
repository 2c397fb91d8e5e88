"""Optuna's storage: SQLite, a journal file, or a database server."""

import json
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import Engine, event

from lina_lab.util.errors import StudyError, first_line
from lina_lab.util.files import append_lines, atomic, cut_torn_line

DATABASE_WAIT_SECONDS = 10
"""How long SQLite waits for a lock by itself, which no signal interrupts; then `patience.patiently` goes on waiting."""
JOURNAL = "journal:"
NETWORK_FILE_SYSTEMS = (
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "afs", "glusterfs", "9p", "pvfs2"),
    *("orangefs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.juicefs", "fuse.s3fs"),
)
MOUNTS = Path("/proc/mounts")


def open_storage(url: str | None, runs: Path, *, reads: bool = False) -> BaseStorage:
    """The storage at `url`; None: `optuna.db` in the folder of runs.

    Args:
        url: of Optuna's storage.
        runs: the folder of runs.
        reads: nothing will be written, so files that this user may only read are enough.

    Raises:
        StudyError: SQLite on a network file system, or a URL that cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url is not None and url.startswith(JOURNAL):
        path = Path(url.removeprefix(JOURNAL))
        return JournalStorage(JournalFileBackend(str(path))) if reads and _only_read(path) else _journal(path)
    if url is None or url.startswith("sqlite:///"):
        path = runs / "optuna.db" if url is None else Path(url.removeprefix("sqlite:///"))
        refuse_network(path)
        return _sqlite_to_read(path) if reads and _only_read(path) else _sqlite(path)
    try:
        return RDBStorage(url)
    except ModuleNotFoundError as error:
        raise StudyError(f"paths.storage={_masked(url)} needs the package {error.name}") from error
    except Exception as error:
        reason = first_line(error.__cause__ or error)
        raise StudyError(f"paths.storage={_masked(url)} cannot be opened: {reason}") from error


def make_whole(path: Path, make: Callable[[str], Engine]) -> None:
    """Make a SQLite file with its tables, unless it exists: a process that dies meanwhile must leave no half of them.

    Args:
        path: the file.
        make: makes the tables at a URL.
    """
    if path.exists():
        return
    # The log of a lost file would pass for the new one's.
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    with atomic(path) as draft:
        draft.unlink(missing_ok=True)
        # SQLite itself would give it 0644, so that a group could not write whatever the umask allows.
        draft.touch()
        make(f"sqlite:///{draft}").dispose()


def _sqlite(path: Path) -> RDBStorage:
    make_whole(path, lambda url: RDBStorage(url).engine)
    storage = RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": DATABASE_WAIT_SECONDS}})

    def connected(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    # SQLite has no SELECT ... FOR UPDATE: without this, two workers can both find a trial waiting and take it.
    event.listen(storage.engine, "connect", connected)
    storage.engine.dispose()
    event.listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage


def _only_read(path: Path) -> bool:
    return not all(
        os.access(each, os.W_OK, effective_ids=os.access in os.supports_effective_ids) for each in (path, path.parent)
    )


def _sqlite_to_read(path: Path) -> RDBStorage:
    """A database that this user may not write.

    While somebody works on it, its write-ahead log lies beside it, and SQLite reads both. Otherwise SQLite would have
    to make one, and reads the file alone when it is told that nobody changes it.
    """
    mode = "mode=ro" if path.with_name(path.name + "-wal").exists() else "immutable=1"
    return RDBStorage(f"sqlite:///file:{quote(str(path.resolve()))}?{mode}&uri=true", skip_table_creation=True)


def _journal(path: Path) -> JournalStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(Journal(path))


class Journal(JournalFileBackend):
    """A journal file whose last line may be cut: by a process that died, a full disk or a quota.

    Each append looks at the last byte first, while it holds the lock. No process relies on a line that has no end.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, JournalFileOpenLock(str(path))
        super().__init__(str(path), lock_obj=self.lock)
        self._locked(self._cut)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records, each of them whole."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._locked(lambda: append_lines(self.path, text, durable=True))

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Read the records from a number on.

        Raises:
            StudyError: a line within the file is no record.
        """
        try:
            yield from super().read_logs(log_number_from)
        except ValueError as error:
            raise StudyError(
                f"the journal {self.path} is damaged ({error}): put back a copy, or move it away and run the same "
                "command again; the cells' own folders are untouched"
            ) from error

    def _cut(self) -> None:
        with self.path.open("rb+") as file:
            cut_torn_line(file)

    def _locked(self, action: Callable[[], None]) -> None:
        self.lock.acquire()
        try:
            action()
        finally:
            self.lock.release()


def refuse_network(path: Path) -> None:
    """Refuse SQLite where its locks are not reliable.

    Raises:
        StudyError: the file's folder is on a network file system.
    """
    kind = file_system(path)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StudyError(
            f"{path} would be SQLite on a network file system ({kind}), which loses data: give "
            f"paths.storage={JOURNAL}{path.with_suffix('.journal')} or paths.storage=postgresql+psycopg://..., or "
            "paths.runs=FOLDER on a local disk"
        )


def file_system(path: Path) -> str | None:
    """Type of the file system that holds a path; None where the operating system does not say."""
    try:
        lines = MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    mounts = {Path(fields[1].replace("\\040", " ")): fields[2] for fields in map(str.split, lines)}
    path = path.resolve()
    return next((mounts[parent] for parent in (path, *path.parents) if parent in mounts), None)


def _masked(url: str) -> str:
    """A URL without its password."""
    head, at, tail = url.rpartition("@")
    return f"{head.split('://')[0]}://...@{tail}" if at else url
