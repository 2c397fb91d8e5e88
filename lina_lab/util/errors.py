"""The project's own errors, and what kind of fault of the environment another library's error is.

Everything here is one sentence for people. A program decides by the class of an error or by its `Fault`.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path


class StudyError(RuntimeError):
    """A study cannot continue; the message says why and what to do."""


class ChangedError(StudyError):
    """The study exists with another configuration."""


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
    LOCKED = "a store under {runs} stayed locked by another process: stop it and run the same command again"
    READ_ONLY = "a store under {runs} cannot be opened for writing: check its permissions, or choose paths.runs=FOLDER"
    UNWRITABLE = "cannot write {file.filename} ({file.strerror}): choose another folder with paths.runs=FOLDER"

    @property
    def passes(self) -> bool:
        """Whether waiting alone may end it."""
        return self is Fault.LOCKED


FULL = (errno.ENOSPC, errno.EDQUOT)
FAULT_WORDS = {
    # SQLite's result codes reach Python as text alone, through sqlite3, SQLAlchemy, Optuna and MLflow (SQLite 3.40 to
    # 3.46: sqlite3ErrStr in main.c). MLflow 3.17 keeps the operating system's text and not its number.
    "database or disk is full": Fault.NO_SPACE,
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
    text = " ".join(str(link) for link in chain)
    for words, fault in FAULT_WORDS.items():
        if words in text:
            return fault
    return None if _unwritable(error, runs) is None else Fault.UNWRITABLE


def explanation(error: BaseException, runs: Path) -> str | None:
    """The sentence for an error that is a fault of the environment; None for any other. See `fault_of`."""
    fault = fault_of(error, runs)
    return None if fault is None else fault.value.format(runs=runs, file=_unwritable(error, runs))


@contextmanager
def explained(runs: Path) -> Iterator[None]:
    """Turn an error of the stores or of the disk under `runs` into a StudyError.

    Raises:
        StudyError: the error is a fault of the environment (`Fault`).
    """
    try:
        yield
    except Exception as error:
        of_a_store = type(error).__module__.partition(".")[0] in STORE_LIBRARIES
        sentence = explanation(error, runs) if of_a_store or isinstance(error, OSError) else None
        if sentence is None:
            raise
        raise StudyError(sentence) from error


def _unwritable(error: BaseException, runs: Path) -> OSError | None:
    """The error about a file in the folder of runs, or on the way to it: other files are a cell's own affair."""
    for link in causes(error):
        if isinstance(link, OSError) and link.filename is not None:
            path = Path(link.filename).resolve()
            if path.is_relative_to(runs) or runs.is_relative_to(path):
                return link
    return None
