"""What goes wrong around a study, told in one sentence."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.exceptions import MlflowException
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DatabaseError

from lina_lab.launch.contract import causes


class StudyError(RuntimeError):
    """A study cannot go on; the message says why and what to do."""


class ChangedError(StudyError):
    """The study is there with another configuration."""


class RefusedError(StudyError):
    """What was asked for cannot be had here. Nothing was started."""


NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def explained(runs: Path) -> Iterator[None]:
    """Turn an error of the stores or of the disk under `runs` into a StudyError.

    Raises:
        StudyError: the folder cannot be written, the disk is full, or a store is damaged.
    """
    try:
        yield
    except (OSError, StorageInternalError, MlflowException, DatabaseError) as error:
        sentence = explanation(error, runs)
        if sentence is None:
            raise
        raise StudyError(sentence) from error


def explanation(error: BaseException, runs: Path) -> str | None:
    """The sentence for an error that is the environment's fault, not the cell's; None for any other."""
    chain = list(causes(error))
    text = " ".join(str(link) for link in chain)
    full = any(isinstance(link, OSError) and link.errno in NO_SPACE for link in chain)
    if full or "database or disk is full" in text or "No space left on device" in text:
        return (
            f"no space left under {runs}: free some and run the same command again; finished cells are kept, "
            "and this one starts anew"
        )
    if "file is not a database" in text or "malformed" in text:
        return (
            f"a store under {runs} is damaged (optuna.db or mlflow.db is not a readable SQLite file): put back a copy, "
            "or move it away and run the same command again; the cells' own folders are untouched"
        )
    if "database is locked" in text:
        return f"a store under {runs} stayed locked by another process: stop it and run the same command again"
    if "readonly database" in text or "unable to open database file" in text:
        return f"a store under {runs} cannot be opened for writing: check its permissions, or choose paths.runs=FOLDER"
    for link in chain:
        if isinstance(link, OSError) and link.filename is not None and _on_the_way(Path(link.filename), runs):
            return f"cannot write {link.filename} ({link.strerror}): choose another folder with paths.runs=FOLDER"
    return None


def _on_the_way(path: Path, runs: Path) -> bool:
    """Whether a path is in the folder of runs, or leads to it: other files are a cell's own affair."""
    path = path.resolve()
    return path.is_relative_to(runs) or runs.is_relative_to(path)
