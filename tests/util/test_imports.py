"""Imports without garbage collection, and the exit of a process after them."""

import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from lina_lab.util.imports import _freeze, free_cycles, gc_paused


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_put_off_and_then_as_before(enabled: bool) -> None:
    were = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with gc_paused():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
        with suppress(ImportError), gc_paused():
            raise ImportError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if were else gc.disable)()


@pytest.mark.parametrize("freed", [False, True], ids=["at once", "after cells"])
def test_the_log_of_a_database_goes_with_the_process(tmp_path: Path, freed: bool) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'some.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.exec_driver_sql("CREATE TABLE some (number)")
    assert (tmp_path / "some.db-wal").exists()
    try:
        if freed:
            free_cycles()
        _freeze()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
    assert [path.name for path in tmp_path.iterdir()] == ["some.db"]


def test_a_process_is_frozen_at_its_end_once(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[Callable[[], None]] = []
    monkeypatch.setattr("atexit.register", registered.append)
    monkeypatch.setattr("atexit.unregister", lambda function: registered.remove(function) if registered else None)
    for _ in range(2):
        with gc_paused():
            pass
    assert registered == [_freeze]
