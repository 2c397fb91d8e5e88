"""People of one group at one study: who may write, and who may only read."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lina_lab import run
from lina_lab.study.stored import StoredStudy
from tests.study.conftest import Lab

NOBODY = 65534


@pytest.fixture
def shared(lab: Lab) -> Iterator[Path]:
    """A finished study in a folder of runs that everybody reaches."""
    lab.run()
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        yield Path(shutil.copytree(lab.runs, folder / "runs"))
    finally:
        shutil.rmtree(folder)


@contextmanager
def as_a_reader(folder: Path) -> Iterator[None]:
    """Be somebody who may read what is in a folder, and write none of it."""
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222 | 0o444 | (0o111 if path.is_dir() else 0))
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(NOBODY)
        yield
    finally:
        if root:
            os.seteuid(0)
        for path in paths:
            path.chmod(path.stat().st_mode | 0o200)


def status(runs: Path, action: str = "status") -> int:
    return run.main(["study=tiny", f"action={action}", f"paths.runs={runs}"])


def test_a_reader_sees_the_status_and_leaves_nothing(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(shared.rglob("*"))
    with as_a_reader(shared):
        assert status(shared) == 0
    assert "tiny: 4 done" in capsys.readouterr().out
    assert sorted(shared.rglob("*")) == before


def test_a_reader_sees_what_a_worker_writes_meanwhile(
    lab: Lab, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the writer's connection is open, its write-ahead log lies beside the file."""
    writer = StoredStudy("tiny", shared, None)
    writer.study.set_user_attr("note", "x")
    assert (shared / "optuna.db-wal").exists()
    with as_a_reader(shared):
        assert status(shared) == 0
        assert StoredStudy("tiny", shared, None, reads=True).study.user_attrs["note"] == "x"
    assert "tiny: 4 done" in capsys.readouterr().out


def test_a_reader_changes_nothing_and_is_answered_in_a_sentence(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with as_a_reader(shared):
        assert status(shared, "retry") == 1
    assert capsys.readouterr().err.startswith(f"error: cannot write {shared}/setup.lock (Permission denied)")


def test_a_group_may_write_what_the_umask_lets_it(lab: Lab) -> None:
    for path in lab.runs.iterdir():
        path.unlink()
    before = os.umask(0o002)
    try:
        lab.run()
    finally:
        os.umask(before)
    private = [path for path in lab.runs.rglob("*") if not path.stat().st_mode & stat.S_IWGRP]
    assert (lab.runs / "optuna.db").exists()
    assert (lab.runs / "mlflow.db").exists()
    assert private == []
