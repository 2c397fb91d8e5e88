"""The queue: leases, clocks, storages."""

import json
import shutil
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy.exc import OperationalError

from lina_lab.records.result import Progress
from lina_lab.records.status import CellStatus
from lina_lab.study import backend, lease, patience
from lina_lab.study.backend import file_system, open_storage
from lina_lab.study.grid import Plan, make_plan
from lina_lab.study.lease import Lease, StaleLeases, read_heartbeat
from lina_lab.study.store import MAX_ATTEMPTS_LOST, Store
from lina_lab.study.stored import StoredStudy
from lina_lab.study.tracking import Tracker
from lina_lab.util.compat import optuna as optuna_doors
from lina_lab.util.errors import StudyError
from tests.study.conftest import store_at, workspace_at


@pytest.fixture
def plan(tiny_study: Any) -> Plan:
    return make_plan(*tiny_study())


@pytest.fixture(params=["sqlite", "journal"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    return None if request.param == "sqlite" else f"journal:{tmp_path / 'optuna.journal'}"


def statuses(store: Store) -> list[str]:
    states = store.states()
    return [states[cell.config_hash].status if cell.config_hash in states else "absent" for cell in store.plan.cells]


def test_every_cell_is_claimed_once_by_two_stores(tmp_path: Path, plan: Plan, url: str | None) -> None:
    one, two = store_at(tmp_path, plan, url), store_at(tmp_path, plan, url)
    one.enqueue()
    two.enqueue()
    claims = [store.claim() for _ in range(3) for store in (one, two)]
    names = [claim.cell.config_hash for claim in claims if claim is not None]
    assert sorted(names) == sorted(cell.config_hash for cell in plan.cells)
    assert statuses(one) == ["running"] * 4
    for store, claim in zip((one, two) * 3, claims, strict=True):
        if claim is not None:
            store.end(claim, CellStatus.DONE, values=[1.0])
    assert statuses(two) == ["done"] * 4
    assert not two.any_open() or two.claim() is None


def died(store: Store) -> str:
    """Claim a cell, and free its lock as the operating system does when a process dies; returns the cell."""
    claim = store.claim()
    assert claim is not None
    claim.lease._ended.set()
    claim.lease._lock.release()
    assert read_heartbeat(store.folder / claim.cell.config_hash) is not None
    return claim.cell.config_hash


def test_a_cell_of_a_dead_process_is_taken_over_and_fails_when_that_is_the_rule(
    tmp_path: Path, plan: Plan, url: str | None
) -> None:
    store = store_at(tmp_path, plan, url)
    store.enqueue()
    for death in range(1, MAX_ATTEMPTS_LOST + 1):
        assert died(store) == plan.cells[0].config_hash
        other = store_at(tmp_path, plan, url)
        other.join()
        failed = other.requeue_stale()
        if death < MAX_ATTEMPTS_LOST:
            assert failed == []
            assert statuses(other)[0] == "interrupted"
        else:
            assert [(state.config_hash, state.error) for state in failed] == [
                (plan.cells[0].config_hash, "the process that ran it died, 3 times in all")
            ]
            assert statuses(other)[0] == "failed"
        store = other
    store.enqueue()
    assert statuses(store)[0] == "waiting"
    assert store.states()[plan.cells[0].config_hash].attempts_lost == 0


def test_a_clock_that_is_wrong_by_an_hour_takes_a_cell_from_nobody(
    tmp_path: Path, plan: Plan, url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(tmp_path, plan, url)
    store.enqueue()
    claim = store.claim()
    assert claim is not None
    wall = time.time
    for error in (3600, -3600):
        monkeypatch.setattr(time, "time", lambda error=error: wall() + error)
        other = store_at(tmp_path, plan, url)
        other.join()
        assert other.requeue_stale() == []
        assert statuses(other)[0] == "running"
    monkeypatch.undo()
    store.end(claim, CellStatus.DONE, values=[1.0])
    assert statuses(store)[0] == "done"


def test_a_paused_worker_that_comes_back_does_not_undo_what_was_done(tmp_path: Path, plan: Plan) -> None:
    """Locks that another machine does not see: the cell was taken over, and has ended, when its first owner is back."""
    store = store_at(tmp_path, plan)
    store.enqueue()
    claim = store.claim()
    assert claim is not None
    claim.lease._lock.release()
    other = store_at(tmp_path, plan)
    other.join()
    other.requeue_stale()
    second = other.claim()
    assert second is not None
    assert second.cell == claim.cell
    other.end(second, CellStatus.DONE, values=[1.0])
    store.end(claim, CellStatus.DONE, values=[2.0])
    assert store.states()[claim.cell.config_hash].values == [1.0]


def test_an_owner_on_another_machine_is_dead_when_its_counter_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def says(count: int) -> None:
        note = {"host": "elsewhere", "pid": 1, "beat": count, "images": 0, "loss": None}
        (tmp_path / "lease.json").write_text(json.dumps(note))

    clock = 0.0
    monkeypatch.setattr(lease.time, "monotonic", lambda: clock)
    watch = StaleLeases()
    says(1)
    assert watch.acquire(tmp_path) is None
    clock = 59.0
    says(2)
    assert watch.acquire(tmp_path) is None
    clock = 118.0
    assert watch.acquire(tmp_path) is None
    assert read_heartbeat(tmp_path) is not None
    clock = 120.0
    taken = watch.acquire(tmp_path)
    assert taken is not None
    taken.release()


def test_a_lease_beats_and_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.01)
    held = Lease.take(tmp_path)
    assert held is not None
    assert Lease.take(tmp_path) is None
    held.beat()
    held.progress(Progress(images=128, loss=0.5))
    deadline = time.monotonic() + 5
    while (note := read_heartbeat(tmp_path)) is None or note.count < 3 or note.progress is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert note.progress == Progress(images=128, loss=0.5)
    held.release()
    assert read_heartbeat(tmp_path) is None
    again = Lease.take(tmp_path)
    assert again is not None
    again.release()


def test_plain_queries_find_what_optuna_does(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_at(tmp_path, plan)
    store.enqueue()
    for status, values in ((CellStatus.DONE, [1.5]), (CellStatus.FAILED, None), (CellStatus.DIVERGED, None)):
        claim = store.claim()
        assert claim is not None
        store.end(claim, status, values=values, error=None if values else "why")
    found = store.states()
    monkeypatch.setattr(optuna_doors, "RDBStorage", type(None))
    assert store.states() == found
    assert [state.status for state in found.values()] == ["done", "failed", "diverged", "waiting"]


def test_what_other_tools_add_is_left_alone(tmp_path: Path, plan: Plan) -> None:
    store = store_at(tmp_path, plan)
    store.enqueue()
    stranger = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    stranger.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.WAITING))
    while (claim := store.claim()) is not None:
        store.end(claim, CellStatus.DONE, values=[1.0])
    assert statuses(store) == ["done"] * 4
    assert stranger.get_trials()[-1].state is optuna.trial.TrialState.WAITING


def test_a_torn_line_at_the_end_of_a_journal_costs_nothing(tmp_path: Path, plan: Plan) -> None:
    url = f"journal:{tmp_path / 'optuna.journal'}"
    store_at(tmp_path, plan, url).enqueue()
    with (tmp_path / "optuna.journal").open("ab") as file:
        file.write(b'{"op_code": 4, "worker_')
    store = store_at(tmp_path, plan, url)
    store.enqueue()
    claim = store.claim()
    assert claim is not None
    store.end(claim, CellStatus.DONE, values=[1.0])
    assert statuses(store_at(tmp_path, plan, url)) == ["done", "waiting", "waiting", "waiting"]


def test_a_record_that_a_full_disk_cut_is_removed_by_the_next_worker_that_writes(tmp_path: Path, plan: Plan) -> None:
    """Another worker has the journal open all the while."""
    url, path = f"journal:{tmp_path / 'optuna.journal'}", tmp_path / "optuna.journal"
    one, two = store_at(tmp_path, plan, url), store_at(tmp_path, plan, url)
    one.enqueue()
    claim = two.claim()
    assert claim is not None
    with path.open("ab") as file:
        file.write(b'{"op_code": 4, "worker_')
    two.end(claim, CellStatus.DONE, values=[1.0])
    for store in (one, two, store_at(tmp_path, plan, url)):
        assert statuses(store) == ["done", "waiting", "waiting", "waiting"]
    assert all(json.loads(line) for line in path.read_bytes().splitlines())


def test_a_journal_that_is_damaged_within_is_named(tmp_path: Path, plan: Plan) -> None:
    url, path = f"journal:{tmp_path / 'optuna.journal'}", tmp_path / "optuna.journal"
    store_at(tmp_path, plan, url).enqueue()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"no record\n", *lines[1:]]))
    with pytest.raises(StudyError, match=r"the journal .*optuna\.journal is damaged \(.*put back a copy"):
        store_at(tmp_path, plan, url)


def test_a_process_that_dies_while_it_makes_a_store_leaves_no_half_of_one(tmp_path: Path, plan: Plan) -> None:
    """MLflow, and Optuna, cannot go on with half of their tables; both files appear whole."""
    for name in ("optuna.db", "mlflow.db"):
        half = sqlite3.connect(tmp_path / f"{name}.draft")
        half.execute("CREATE TABLE spans (a)")
        half.execute("CREATE TABLE studies (a)")
        half.close()
    store = store_at(tmp_path, plan)
    store.enqueue()
    with store.setup():
        Tracker.open(workspace_at(tmp_path, plan))
    assert statuses(store) == ["waiting"] * 4
    assert {path.name for path in tmp_path.glob("*.db*")} - {"optuna.db-wal", "optuna.db-shm"} == {
        "optuna.db",
        "mlflow.db",
    }


@pytest.mark.parametrize("held", [0.5, 60.0], ids=["a moment", "for good"])
def test_a_queue_that_another_process_locks_is_waited_for_as_the_tracker_is(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch, held: float
) -> None:
    monkeypatch.setattr(backend, "DATABASE_WAIT_SECONDS", 0)
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 20.0 if held < 1 else 0.2)
    store, lines = store_at(tmp_path, plan), list[str]()
    store.tell = lines.append
    store.enqueue()
    claim = store.claim()
    assert claim is not None
    backup = sqlite3.connect(tmp_path / "optuna.db", isolation_level=None, check_same_thread=False)
    backup.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(held, backup.execute, ["ROLLBACK"])
    timer.start()
    try:
        if held > 1:
            with pytest.raises(
                StudyError, match=r"the queue did not answer for 0 minutes \(a store under .* stayed lock"
            ):
                store.end(claim, CellStatus.DONE, values=[1.0])
        else:
            store.end(claim, CellStatus.DONE, values=[1.0])
            assert statuses(store) == ["done", "waiting", "waiting", "waiting"]
    finally:
        timer.cancel()
        backup.close()
    assert len([line for line in lines if line.startswith("waiting for the queue (")]) == 1


def test_a_database_server_that_is_away_for_a_moment_costs_no_cell(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.0)
    store = store_at(tmp_path, plan)
    store.enqueue()
    for method in ("set_trial_state_values", "set_trial_user_attr"):
        faults = [OperationalError("UPDATE", {}, ConnectionError("server closed the connection"))]
        real = getattr(store._storage, method)

        def away(*arguments: Any, real: Any = real, faults: list[Exception] = faults, **keywords: Any) -> Any:
            if faults:
                raise faults.pop()
            return real(*arguments, **keywords)

        monkeypatch.setattr(store._storage, method, away)
    while (claim := store.claim()) is not None:
        assert Lease.take(store.folder / claim.cell.config_hash) is None
        store.end(claim, CellStatus.DONE, values=[1.0])
    assert statuses(store) == ["done"] * 4


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mounts"
    share = tmp_path / "my share"
    share.mkdir()
    escaped = str(share).replace(" ", "\\040")
    path.write_text(f"overlay / overlay rw 0 0\nserver:/x {escaped} nfs4 rw 0 0\n")
    monkeypatch.setattr(backend, "MOUNTS", path)
    return share


def test_sqlite_on_a_network_file_system_is_refused_with_what_works(mounts: Path, plan: Plan) -> None:
    assert file_system(mounts / "a" / "b") == "nfs4"
    assert file_system(mounts.parent) == "overlay"
    with pytest.raises(
        StudyError, match=r"SQLite on a network file system \(nfs4\).*paths\.storage=journal:.*postgresql"
    ):
        store_at(mounts, plan)
    assert statuses(store_at(mounts, plan, f"journal:{mounts / 'optuna.journal'}")) == ["absent"] * 4


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("postgresql+psycopg://somebody:secret@127.0.0.1:1/optuna", "cannot be opened"),
        ("mysql+nothing://somebody:secret@127.0.0.1:1/optuna", "cannot be opened"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_said_without_its_password(tmp_path: Path, url: str, sentence: str) -> None:
    with pytest.raises(StudyError, match=sentence) as caught:
        open_storage(url, tmp_path)
    assert "secret" not in str(caught.value)


def test_a_folder_of_runs_can_be_copied(tmp_path: Path, plan: Plan) -> None:
    store = store_at(tmp_path / "a", plan)
    store.enqueue()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert statuses(store_at(tmp_path / "b", plan)) == ["waiting"] * 4


def test_a_cell_that_somebody_is_just_taking_counts_as_open(tmp_path: Path, plan: Plan) -> None:
    """Its lease is held, its trial does not run yet: this worker has nothing to claim, and no reason to leave."""
    store = store_at(tmp_path, plan)
    store.enqueue()
    held = [Lease.take(tmp_path / "tiny" / cell.config_hash) for cell in plan.cells]
    assert store.claim() is None
    assert store.any_open()
    for lease_ in held:
        assert lease_ is not None
        lease_.release()
    assert store.claim() is not None


def test_cancelling_leaves_the_owner_on_another_machine_its_note(tmp_path: Path, plan: Plan) -> None:
    """Where locks are not seen across machines, only the note keeps a living owner from being taken for dead."""
    store = store_at(tmp_path, plan)
    store.enqueue()
    claim = store.claim()
    assert claim is not None
    claim.lease._lock.release()
    folder = store.folder / claim.cell.config_hash
    before = read_heartbeat(folder)
    study = StoredStudy(plan.study.name, tmp_path, None)
    study.cancel(study.cells())
    assert before is not None
    assert read_heartbeat(folder) is not None
    assert (folder / "cancel").exists()
    assert statuses(store) == ["running", "cancelled", "cancelled", "cancelled"]


def test_a_lease_is_given_back_when_the_store_fails(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(tmp_path, plan)
    store.enqueue()
    with monkeypatch.context() as patch:
        patch.setattr(store, "_start", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.claim()
    claim = store_at(tmp_path, plan)
    claim.join()
    taken = claim.claim()
    assert taken is not None
    assert taken.cell == plan.cells[0]


@pytest.mark.parametrize("state", ["COMPLETE", "FAIL"])
def test_a_cell_that_another_tool_ended_is_read(tmp_path: Path, plan: Plan, state: str) -> None:
    store = store_at(tmp_path, plan)
    store.enqueue()
    other = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    ended = optuna.trial.TrialState[state]
    other._storage.set_trial_state_values(
        other.get_trials()[0]._trial_id, ended, [1.0] if state == "COMPLETE" else None
    )
    assert statuses(store)[0] == ("done" if state == "COMPLETE" else "interrupted")


def test_a_storage_elsewhere_knows_its_study_s_folder(tmp_path: Path, plan: Plan) -> None:
    """Two machines with a database in common and folders of their own would each take the other's cells for dead."""
    url = f"journal:{tmp_path / 'queue.journal'}"
    store_at(tmp_path / "here", plan, url).enqueue()
    store_at(tmp_path / "here", plan, url)
    with pytest.raises(StudyError, match=r"there/tiny is not the folder that the study tiny runs in: all machines"):
        store_at(tmp_path / "there", plan, url)
    shutil.copytree(tmp_path / "here", tmp_path / "moved")
    store_at(tmp_path / "moved", plan, url)
