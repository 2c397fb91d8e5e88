"""Faults of the environment are told apart by kind, from the errors that the libraries really raise."""

import errno
import os
import resource
import sqlite3
from collections.abc import Callable
from pathlib import Path

import mlflow.exceptions
import optuna
import pytest
import sqlalchemy
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from mlflow import MlflowClient

from lina_lab.util.errors import FAULT_WORDS, Fault, StudyError, causes, explained, explanation, fault_of, first_line

Provoke = Callable[[Path], None]


def full(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA max_page_count = 2")
    connection.execute("CREATE TABLE a (b)")
    with connection:
        connection.executemany("INSERT INTO a VALUES (?)", [("x" * 1000,)] * 100)


def no_database(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to be one" * 99)
    sqlite3.connect(path).execute("SELECT * FROM a")


def torn(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE a (b)")
    with connection:
        connection.executemany("INSERT INTO a VALUES (?)", [("x" * 1000,)] * 100)
    connection.close()
    contents = path.read_bytes()
    path.write_bytes(contents[:4096] + b"\xff" * (len(contents) - 4096))
    sqlite3.connect(path).execute("SELECT * FROM a").fetchall()


def torn_schema(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE a (b)")
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_master SET sql = 'CREATE TABLE a (('")
    connection.commit()
    connection.close()
    sqlite3.connect(path).execute("SELECT * FROM a")


def locked(path: Path) -> None:
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("CREATE TABLE a (b)")
    holder.execute("BEGIN EXCLUSIVE")
    try:
        sqlite3.connect(path, timeout=0).execute("INSERT INTO a VALUES (1)")
    finally:
        holder.close()


def no_quota(path: Path) -> None:
    """Any failure of a write but a full disk: here a limit of the process, as a quota of some file systems is."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE a (b)")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, limits[1]))
    try:
        with connection:
            connection.executemany("INSERT INTO a VALUES (?)", [("x" * 1000,)] * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def read_only(path: Path) -> None:
    sqlite3.connect(path).execute("CREATE TABLE a (b)")
    sqlite3.connect(f"file:{path}?mode=ro", uri=True).execute("INSERT INTO a VALUES (1)")


def cannot_open(path: Path) -> None:
    sqlite3.connect(path / "in" / "no" / "folder")


PROVOKED: dict[str, tuple[Fault, Provoke]] = {
    "database or disk is full": (Fault.NO_SPACE, full),
    "disk I/O error": (Fault.DISK, no_quota),
    "file is not a database": (Fault.DAMAGED, no_database),
    "database disk image is malformed": (Fault.DAMAGED, torn),
    "malformed database schema": (Fault.DAMAGED, torn_schema),
    "database is locked": (Fault.LOCKED, locked),
    "readonly database": (Fault.READ_ONLY, read_only),
    "unable to open database file": (Fault.READ_ONLY, cannot_open),
}


@pytest.mark.parametrize("words", PROVOKED)
def test_sqlite_still_says_the_words_that_a_fault_is_told_by(words: str, tmp_path: Path) -> None:
    fault, provoke = PROVOKED[words]
    with pytest.raises(sqlite3.DatabaseError, match=words) as caught:
        provoke(tmp_path / "x.db")
    assert fault_of(caught.value, tmp_path) is fault
    assert FAULT_WORDS[words] is fault


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_checkpoint_that_does_not_fit_on_the_disk_says_so(tmp_path: Path) -> None:
    """torch's own writer would not (torch 2.14: "unexpected pos"); Lightning writes the bytes itself."""
    with pytest.raises(OSError, match="No space left on device") as caught:
        TorchCheckpointIO().save_checkpoint({"weight": torch.zeros(10_000)}, "/dev/full")
    assert fault_of(caught.value, tmp_path) is Fault.NO_SPACE


def test_the_operating_system_s_words_count_where_a_library_drops_the_number(tmp_path: Path) -> None:
    assert os.strerror(errno.ENOSPC) == "No space left on device"
    wrapped = mlflow.exceptions.MlflowException(f"could not write: {OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))}")
    assert fault_of(wrapped, tmp_path) is Fault.NO_SPACE


def test_every_word_of_the_table_is_provoked() -> None:
    assert FAULT_WORDS.keys() - PROVOKED.keys() == {"No space left on device"}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("library", ["sqlalchemy", "optuna", "mlflow"])
def test_a_damaged_store_is_told_through_each_library(library: str, tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"not a database, but long enough to be one" * 99)
    url = f"sqlite:///{path}"
    actions: dict[str, tuple[type[Exception], Callable[[], object]]] = {
        "sqlalchemy": (
            sqlalchemy.exc.DatabaseError,
            lambda: sqlalchemy.create_engine(url).connect().execute(sqlalchemy.text("SELECT * FROM a")),
        ),
        "optuna": (Exception, lambda: optuna.storages.RDBStorage(url)),
        "mlflow": (Exception, lambda: MlflowClient(url).search_experiments()),
    }
    kind, action = actions[library]
    with pytest.raises(kind) as caught:
        action()
    assert fault_of(caught.value, tmp_path) is Fault.DAMAGED
    with pytest.raises(StudyError, match=r"a store under .* is damaged"), explained(tmp_path):
        raise caught.value


def test_a_file_on_the_way_to_the_runs_is_named_and_another_file_is_the_cell_s_own(tmp_path: Path) -> None:
    runs = tmp_path / "a" / "runs"
    for path in (tmp_path / "a", runs, runs / "tiny" / "x"):
        error = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        assert fault_of(error, runs) is Fault.UNWRITABLE
        assert str(explanation(error, runs)).startswith(f"cannot write {path} (Permission denied)")
    elsewhere = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "data"))
    assert fault_of(elsewhere, runs) is None
    assert explanation(elsewhere, runs) is None


def test_only_a_lock_and_a_server_that_is_away_pass_by_waiting() -> None:
    assert {fault for fault in Fault if fault.passes} == {Fault.LOCKED, Fault.AWAY}


def test_any_other_error_of_a_database_is_one_sentence_and_the_store_s(tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    with (
        pytest.raises(
            StudyError, match=r"^a store of the study fails: \(sqlite3\.OperationalError\) no such table: a$"
        ),
        explained(tmp_path),
        engine.connect() as connection,
    ):
        connection.execute(sqlalchemy.text("SELECT * FROM a"))


def test_a_disk_that_fails_below_an_open_file_is_one_sentence(tmp_path: Path) -> None:
    failed = OSError(errno.EIO, os.strerror(errno.EIO))
    sentence = r"^the disk of a store under .* fails \(\[Errno 5\] Input/output error\): it may be"
    with pytest.raises(StudyError, match=sentence), explained(tmp_path):
        raise failed
    assert fault_of(OSError(errno.EIO, os.strerror(errno.EIO), "/data/a.npy"), tmp_path) is None


def test_a_server_that_does_not_answer_is_away_and_one_that_refuses_is_not(tmp_path: Path) -> None:
    away = sqlalchemy.exc.OperationalError("SELECT 1", {}, ConnectionError("connection refused"))
    outer = optuna.exceptions.StorageInternalError("An exception is raised during the commit")
    outer.__cause__ = away
    assert fault_of(outer, tmp_path) is Fault.AWAY
    assert fault_of(mlflow.exceptions.MlflowException("gone"), tmp_path) is Fault.AWAY
    refused = mlflow.exceptions.MlflowException("no", error_code=mlflow.protos.databricks_pb2.INVALID_PARAMETER_VALUE)
    assert fault_of(refused, tmp_path) is None


def test_an_error_without_a_message_is_told_by_its_class() -> None:
    assert first_line(ValueError()) == first_line(ValueError("\n")) == "ValueError"
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError("it does not fit:\n\n\ttwo\nthree")) == "it does not fit: two"
    assert len(first_line(ValueError("x" * 9999))) == 300


@pytest.mark.parametrize("error", [ValueError("malformed node or string"), RuntimeError("shapes do not fit")])
def test_an_error_of_the_cell_s_own_stays_as_it_is(error: Exception, tmp_path: Path) -> None:
    assert fault_of(error, tmp_path) is None
    with pytest.raises(type(error), match=str(error)), explained(tmp_path):
        raise error


def test_causes_are_followed() -> None:
    first, second = OSError(errno.ENOSPC, "full"), RuntimeError("could not save")
    second.__cause__ = first
    assert list(causes(second)) == [second, first]
    assert fault_of(second, Path("/runs")) is Fault.NO_SPACE
