"""Real faults: after them every result is as without them."""

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from lina_lab.records.runstore import STATUS
from tests.conftest import STUDY, TINY
from tests.system.conftest import Place, make_place, wait_for
from tests.system.servers import Server

pytestmark = pytest.mark.system
Losses = dict[str, list[tuple[int, float]]]
LONG = {
    "study": STUDY | {"axes": {"size": {"model.dim": [8, 16]}}},
    "trainer": {"max_images": 1600, "val_every_images": 320},
}
"""Two cells of a hundred steps, with a checkpoint every twenty."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Losses:
    place = make_place(tmp_path_factory.mktemp("undisturbed"), **LONG)
    code, _, err = place.study()
    assert (code, err) == (0, "")
    return place.losses()


def ends_as_if_nothing_had_happened(place: Place, undisturbed: Losses) -> str:
    """Run the same command again: each cell is done, has one run, and the curves of an undisturbed study."""
    code, out, err = place.study()
    assert (code, err) == (0, "")
    assert_as_if_nothing_had_happened(place, undisturbed)
    return out


def assert_as_if_nothing_had_happened(place: Place, undisturbed: Losses) -> None:
    assert set(place.states().values()) == {"done"}
    assert [run.data.tags[STATUS] for run in place.attempts()] == ["done"] * 2
    assert place.losses() == undisturbed


def killed_behind_the_second_checkpoint(place: Place) -> Path:
    """Run the study, and kill it when its first cell has two checkpoints; returns the newest."""
    process = place.start("-m", "lina_lab.run", "study=tiny")
    folder = place.folder / "runs/tiny"
    wait_for(lambda: len(list(folder.glob("*/step-*.ckpt"))) >= 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return max(folder.glob("*/step-*.ckpt"))


def test_a_killed_cell_goes_on_from_its_checkpoint_in_the_same_run(tmp_path: Path, undisturbed: Losses) -> None:
    """So does a folder of runs that was copied elsewhere; there, the newest checkpoint was cut."""
    place = make_place(tmp_path, **LONG)
    newest = killed_behind_the_second_checkpoint(place)
    moved = make_place(tmp_path / "elsewhere", empty=True, **LONG)
    shutil.copytree(place.folder / "runs", moved.folder / "runs")
    (run,) = place.attempts()
    ends_as_if_nothing_had_happened(place, undisturbed)
    assert run.info.run_id in {attempt.info.run_id for attempt in place.attempts()}
    record = (tmp_path / "runs/tiny" / run.data.tags["lina.cell"] / "result.json").read_text()
    assert '"resumed_at": null' not in record
    cut = moved.folder / newest.relative_to(place.folder)
    cut.write_bytes(cut.read_bytes()[:-1000])
    out = ends_as_if_nothing_had_happened(moved, undisturbed)
    assert f"{cut.name} is damaged: its contents are not what was written" in out


def test_a_disk_that_is_full_when_a_checkpoint_is_written(
    tmp_path: Path, undisturbed: Losses, small_disk: Callable[[int], Path]
) -> None:
    """The cells' folders are on a disk that holds one checkpoint and part of the next."""
    place = make_place(tmp_path, **LONG)
    disk = small_disk(600)
    (tmp_path / "runs/tiny").symlink_to(disk)
    code, _, err = place.study()
    assert code == 1
    assert "no space left under" in err
    assert err.count("\n") == 1
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    ends_as_if_nothing_had_happened(place, undisturbed)


def test_stores_that_another_process_locks(tmp_path: Path, undisturbed: Losses) -> None:
    place = make_place(tmp_path, **LONG)
    process = place.start("-m", "lina_lab.run", "study=tiny")
    wait_for(lambda: list((tmp_path / "runs/tiny").glob("*/step-*.ckpt")))
    for name in ("optuna.db", "mlflow.db"):
        database = sqlite3.connect(tmp_path / "runs" / name, timeout=60, isolation_level=None)
        database.execute("BEGIN IMMEDIATE")
        time.sleep(12)
        database.execute("ROLLBACK")
        database.close()
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    assert_as_if_nothing_had_happened(place, undisturbed)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_a_tracking_server_that_is_away_for_a_while(tmp_path: Path, undisturbed: Losses, server: Server) -> None:
    place = make_place(tmp_path, **LONG)
    place.tracking_uri = server.uri
    process = place.start("-m", "lina_lab.run", "study=tiny", f"paths.tracking_uri={server.uri}")
    wait_for(lambda: list((tmp_path / "runs/tiny").glob("*/step-*.ckpt")))
    server.stop()
    results_then = len(list((tmp_path / "runs/tiny").glob("*/result.json")))
    # The cell that ran when the server went away trains to its end; then the study waits.
    wait_for(lambda: len(list((tmp_path / "runs/tiny").glob("*/result.json"))) > results_then)
    time.sleep(5)
    assert process.poll() is None
    server.start()
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, ""), out
    assert "waiting for the tracking store" in out
    assert_as_if_nothing_had_happened(place, undisturbed)


ROUNDS = 3
AT_ONCE = """
import multiprocessing, sys
from pathlib import Path
import yaml
from lina_lab.config import StudyConfig, PathsConfig, TrialConfig, from_dict, to_dict
from lina_lab.study.grid import make_plan
from lina_lab.study.store import Store
from lina_lab.records.status import CellStatus
from lina_lab.study.tracking import Tracker
from lina_lab.study.workspace import Workspace

study, trial, folder = yaml.safe_load(sys.stdin.read())
plan = make_plan(from_dict(StudyConfig, study), to_dict(from_dict(TrialConfig, trial)))

def work(barrier, taken, runs):
    barrier.wait()
    workspace = Workspace.of(plan, PathsConfig(runs=str(runs)))
    store = Store(workspace)
    store.enqueue()
    with store.setup():
        Tracker.open(workspace)
    while (claim := store.claim()) is not None:
        taken.put(claim.cell.config_hash)
        store.end(claim, CellStatus.DONE, values=[1.0])

context = multiprocessing.get_context("fork")
for number in range(int(sys.argv[1])):
    runs = Path(folder) / str(number)
    runs.mkdir()
    barrier, taken = context.Barrier(2), context.Queue()
    workers = [context.Process(target=work, args=(barrier, taken, runs)) for _ in range(2)]
    for worker in workers: worker.start()
    names = [taken.get(timeout=120) for _ in plan.cells]
    for worker in workers: worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert taken.empty() and sorted(names) == sorted(cell.config_hash for cell in plan.cells), names
    print(number, flush=True)
"""


def test_two_workers_that_start_at_the_same_instant_on_an_empty_store(tmp_path: Path) -> None:

    from tests.conftest import STUDY

    text = yaml.safe_dump([STUDY | {"name": "tiny"}, TINY, str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE, str(ROUNDS)],
        input=text,
        text=True,
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(number) for number in range(ROUNDS)]
    for number in range(ROUNDS):
        client = MlflowClient(f"sqlite:///{tmp_path / str(number) / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("tiny")
        assert experiment is not None
        assert len(client.search_runs([experiment.experiment_id])) == 1
