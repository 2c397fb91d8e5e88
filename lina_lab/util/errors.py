"""The project's own errors, and what kind of fault of the environment another library's error is.

Everything here is one sentence for people. A program decides by the class of an error or by its `Fault`.
"""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path


class StudyError(RuntimeError):
    """A study cannot continue; the message says why and what to do."""


class ChangedError(StudyError):
    """The study exists with another configuration.

    Args:
        sentence: what differs, and what to do.
        changes: what differs, a clause each.
    """

    def __init__(self, sentence: str, changes: Sequence[str] = ()) -> None:
        super().__init__(sentence)
        self.changes = changes


class RefusedError(StudyError):
    """This machine cannot do what the command asks for. Nothing was started."""


class ConfigError(ValueError):
    """The configuration is wrong: one sentence says what, and what is allowed."""


class Fault(Enum):
    """A fault of the environment, not of the cell that met it. The value is its sentence."""

    NO_SPACE = (
        "no space left under {runs}: free some and run the same command again; finished cells are kept, and this one "
        "starts anew"
    )
    DAMAGED = (
        "a store under {runs} is damaged (optuna.db or mlflow.db is not a readable SQLite file): put back a copy, or "
        "move it away and run the same command again; the cells' own folders are untouched"
    )
    DISK = (
        "the disk of a store under {runs} fails ({reason}): it may be full, over a quota or broken; free some space or "
        "copy {runs} to another disk, and run the same command again"
    )
    STORE = "a store of the study fails: {reason}"
    AWAY = "a store of the study does not answer: {reason}"
    LOCKED = "a store under {runs} stayed locked by another process: stop it and run the same command again"
    READ_ONLY = "a store under {runs} cannot be opened for writing: check its permissions, or choose paths.runs=FOLDER"
    UNWRITABLE = "cannot write {file.filename} ({file.strerror}): choose another folder with paths.runs=FOLDER"

    @property
    def passes(self) -> bool:
        """Whether waiting alone may end it."""
        return self in (Fault.LOCKED, Fault.AWAY)


FULL = (errno.ENOSPC, errno.EDQUOT)
FAULT_WORDS = {
    # SQLite's result codes reach Python as text alone, through sqlite3, SQLAlchemy, Optuna and MLflow (SQLite 3.40 to
    # 3.46: sqlite3ErrStr in main.c). MLflow 3.17 keeps the operating system's text and not its number.
    "database or disk is full": Fault.NO_SPACE,
    "disk I/O error": Fault.DISK,
    "No space left on device": Fault.NO_SPACE,
    "file is not a database": Fault.DAMAGED,
    "database disk image is malformed": Fault.DAMAGED,
    "malformed database schema": Fault.DAMAGED,
    "database is locked": Fault.LOCKED,
    "readonly database": Fault.READ_ONLY,
    "unable to open database file": Fault.READ_ONLY,
}
"""Words of other libraries -> what they mean; the first that occurs counts. tests/util/test_errors.py provokes each."""
STORE_LIBRARIES = ("sqlite3", "sqlalchemy", "optuna", "mlflow")
"""Packages whose errors are the stores'."""
DATABASES = ("sqlite3", "sqlalchemy")
"""Those whose errors are never a cell's own."""
COMING_BACK = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
"""Codes of MLflow's errors after which its store may come back."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def fault_of(error: BaseException, runs: Path) -> Fault | None:
    """What kind of fault of the environment an error is; None: none, it is the cell's own.

    Args:
        error: what was raised; its causes count as well.
        runs: absolute path of the folder of all results.
    """
    chain = list(causes(error))
    if any(isinstance(link, OSError) and link.errno in FULL for link in chain):
        return Fault.NO_SPACE
    if any(isinstance(link, OSError) and (link.errno, link.filename) == (errno.EIO, None) for link in chain):
        return Fault.DISK  # of a file that is open, as from fsync; a file of data is opened by its name
    text = " ".join(str(link) for link in chain)
    for words, fault in FAULT_WORDS.items():
        if words in text:
            return fault
    if any(_away(link) for link in chain):
        return Fault.AWAY
    if any(_package(link) in DATABASES for link in chain):
        return Fault.STORE
    return None if _unwritable(error, runs) is None else Fault.UNWRITABLE


def explanation(error: BaseException, runs: Path) -> str | None:
    """The sentence for an error that is a fault of the environment; None for any other. See `fault_of`."""
    fault = fault_of(error, runs)
    if fault is None:
        return None
    return fault.value.format(runs=runs, file=_unwritable(error, runs), reason=first_line(error))


@contextmanager
def explained(runs: Path) -> Iterator[None]:
    """Turn an error of the stores or of the disk under `runs` into a StudyError.

    Raises:
        StudyError: the error is a fault of the environment (`Fault`).
    """
    try:
        yield
    except Exception as error:
        of_a_store = any(_package(link) in STORE_LIBRARIES for link in causes(error))
        sentence = explanation(error, runs) if of_a_store or isinstance(error, OSError) else None
        if sentence is None:
            raise
        raise StudyError(sentence) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, which may be a page long, or its class if it has none.

    A line that ends with a colon says nothing without the next one.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return (" ".join(lines[:2]) if lines[0].endswith(":") else lines[0])[:300]


def _package(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _away(error: BaseException) -> bool:
    """Whether a server of a store did not answer."""
    if _package(error) == "mlflow":
        return getattr(error, "error_code", None) in COMING_BACK
    # SQLAlchemy's names for a lost connection (2.0); the driver's own error is in `orig`.
    lost = type(error).__name__ in ("OperationalError", "InterfaceError") and _package(error) == "sqlalchemy"
    return lost and _package(getattr(error, "orig", None) or error) != "sqlite3"


def _unwritable(error: BaseException, runs: Path) -> OSError | None:
    """The error about a file in the folder of runs, or on the way to it: other files are a cell's own affair."""
    for link in causes(error):
        if isinstance(link, OSError) and link.filename is not None:
            path = Path(link.filename).resolve()
            if path.is_relative_to(runs) or runs.is_relative_to(path):
                return link
    return None
