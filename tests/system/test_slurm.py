"""Cells as jobs of a SLURM cluster, and failures of jobs and nodes."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from lina_lab.records.runstore import STATUS
from tests.conftest import STUDY, TINY
from tests.system.cluster import Cluster, cluster
from tests.system.conftest import Place, make_place, wait_for
from tests.system.network import network

pytestmark = pytest.mark.system
CELLS = {
    "study": STUDY | {"axes": {"size": {"model.dim": [8, 12, 16]}}},
    "model": TINY["model"] | {"attention": {"normalization": "subtraction"}},
    "trainer": {"max_images": 2400, "val_every_images": 800},
}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with network("sn", "10.78.2", 2) as net, cluster(net, tmp_path_factory.mktemp("slurm")) as made:
        yield made


def start(slurm: Cluster, place: Place, *overrides: str) -> subprocess.Popen[str]:
    (place.folder / "studies/slurm.sh").write_text("export OMP_NUM_THREADS=1 MADE_BY_THE_TEMPLATE=1\n")
    arguments = ["study=tiny", "launcher=slurm", "study.resources.nodes=2", "slurm.mem_gib=2", "slurm.partition=main"]
    command = [sys.executable, "-m", "lina_lab.run", *arguments, "slurm.warning_seconds=20", *overrides]
    return slurm.net.start(slurm.net.switch, command, place.folder, slurm.environment)


Strike = Callable[[Path, str], object]


class Striker:
    """Call actions with the cell's folder and the job, each once the cell has seen so many images."""

    def __init__(self, place: Place, *strikes: tuple[int, Strike]) -> None:
        self.folder, self.strikes = place.folder / "runs/tiny", list(strikes)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._guarded, daemon=True)
        self.thread.start()

    def _guarded(self) -> None:
        """What goes wrong here is the error of the test that struck, not of the next one."""
        try:
            self._watch()
        except BaseException as error:
            self.error = error

    def _watch(self) -> None:
        deadline = time.monotonic() + 300
        while self.strikes and time.monotonic() < deadline:
            time.sleep(0.1)
            for progress in self.folder.glob("*/progress.json"):
                with suppress(FileNotFoundError, ValueError):
                    if json.loads(progress.read_text())["images"] > self.strikes[0][0]:
                        _, strike = self.strikes.pop(0)
                        strike(progress.parent, json.loads((progress.parent / "job.json").read_text())["job"])
                        break


def test_a_cell_of_two_nodes_whatever_befalls_its_jobs(tmp_path: Path, slurm: Cluster) -> None:
    """The first job is cancelled by hand; then a node is lost."""
    # 400 steps of 16 images between two validations: seconds in which each strike meets a cell that trains.
    cells = CELLS | {"trainer": {"max_images": 12800, "val_every_images": 6400}}
    place, reference = make_place(tmp_path / "slurm", **cells), make_place(tmp_path / "here", **cells)
    code, _, err = reference.study("model.dim=16")
    assert (code, err) == (0, "")

    def cancel(cell: Path, job: str) -> None:
        slurm.run("scancel", job)
        wait_for(lambda: job not in slurm.run("squeue", "-h", "-o", "%i").split())
        (cell / "progress.json").unlink()

    def lose_a_node(cell: Path, job: str) -> None:
        slurm.net.kill(slurm.net.host(2))
        slurm.net.link(2, "down")
        time.sleep(15)
        slurm.net.link(2, "up")
        slurm.start_node(2)

    striker = Striker(place, (600, cancel), (7000, lose_a_node))
    out, err = start(slurm, place, "model.dim=16").communicate(timeout=560)
    assert err == "", out
    assert "tiny: 1 done" in out
    assert (striker.strikes, striker.error) == ([], None)
    assert [run.data.tags[STATUS] for run in place.attempts()] == ["done"]
    losses, expected = place.losses(), reference.losses()
    assert losses.keys() == expected.keys()
    for cell, curve in expected.items():
        assert [images for images, _ in losses[cell]] == [images for images, _ in curve]
        assert [loss for _, loss in losses[cell]] == pytest.approx([loss for _, loss in curve], abs=1e-5)
    assert "MADE_BY_THE_TEMPLATE" in next(place.folder.glob("runs/tiny/*/logs/slurm/*_submission.sh")).read_text()
    (record,) = [json.loads(path.read_text())["result"] for path in place.folder.glob("runs/tiny/*/result.json")]
    # Put back into the queue by itself it is the same attempt. The loss of a node is seen by the other one's rank,
    # which fails, or by SLURM, which puts the job back.
    assert "ended as CANCELLED" in record["problems"][0]
    assert all("ended as FAILED" in problem for problem in record["problems"][1:])
    assert len(record["problems"]) <= 2
    # From the loss of the node it went on from the last validation.
    assert record["resumed_at"] == 400
    hosts = {json.loads(p.read_text())["host"] for p in place.folder.glob("runs/tiny/*/logs/rank-*.json")}
    assert hosts == {"sn1", "sn2"}


def test_a_job_outlives_the_process_that_submitted_it_and_is_found_again(tmp_path: Path, slurm: Cluster) -> None:
    place = make_place(tmp_path, **CELLS)
    first = start(slurm, place, "model.dim=16")
    striker = Striker(place, (1000, lambda cell, job: first.kill()))
    striker.thread.join(timeout=120)
    assert (striker.strikes, striker.error) == ([], None)
    first.communicate(timeout=30)
    assert first.returncode == -9
    out, err = start(slurm, place, "model.dim=16").communicate(timeout=120)
    assert err == "", out
    assert "continues with job" in out
    assert "tiny: 1 done" in out
    assert len(list(place.folder.glob("runs/tiny/*/logs/slurm/*_submission.sh"))) == 1
    assert [run.data.tags[STATUS] for run in place.attempts()] == ["done"]


def test_what_slurm_does_not_take_is_said_before_anything_runs(tmp_path: Path, slurm: Cluster) -> None:
    place = make_place(tmp_path, **CELLS)
    process = start(slurm, place, "slurm.partition=nowhere")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: SLURM did not take the job: " in err
    assert "invalid partition specified: nowhere" in err.splitlines()[-1]


def test_several_jobs_at_once_tune_and_outlive_all_that_submitted_them(tmp_path: Path, slurm: Cluster) -> None:
    """`workers=2`: two jobs of one node each at once; the processes are killed while cells are still to follow."""
    tuned = {"axes": {"size": {"model.dim": [8]}}, "tune": {"optimizer.lr": [1e-6, 0.01, 10.0]}, "seeds": [0, 1]}
    trainer = {"max_images": 1600, "val_every_images": 1600}
    study = STUDY | tuned | {"tuning": {"seeds": [100]}}
    place = make_place(tmp_path, **CELLS | {"study": study, "trainer": trainer})
    process = start(slurm, place, "study.resources.nodes=1", "workers=2")
    most = 0
    while process.poll() is None and not list(place.folder.glob("runs/tiny/*/result.json")):
        most = max(most, slurm.run("squeue", "-h", "-t", "RUNNING", "-o", "%i").count("\n"))
        time.sleep(0.5)
    assert most >= 2
    for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.communicate()
    wait_for(lambda: not slurm.run("squeue", "-h", "-o", "%i").strip(), seconds=180)
    process = start(slurm, place, "study.resources.nodes=1", "workers=2")
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, ""), out
    assert "tiny: 5 done" in out
    assert [run.data.tags[STATUS] for run in place.attempts()] == ["done"] * 5
    results = [json.loads(path.read_text())["result"] for path in place.folder.glob("runs/tiny/*/result.json")]
    assert [(result["problems"], result["resumed_at"]) for result in results] == [([], None)] * 5
    # A job that ended while nobody watched is that of its cell.
    assert len(list(place.folder.glob("runs/tiny/*/logs/slurm/*_submission.sh"))) == 5
