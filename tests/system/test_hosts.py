"""One model over two machines, and failures of a machine or of the link between them."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lina_lab.records.runstore import STATUS
from tests.conftest import STUDY, TINY
from tests.system.conftest import ROOT, Place, make_place
from tests.system.lab import shell_blocks, typed
from tests.system.network import Network, network
from tests.system.stages import STAGED

pytestmark = pytest.mark.system
Losses = dict[str, list[tuple[int, float]]]
RENDEZVOUS = 29500
TWO_CELLS = {
    "study": STUDY | {"axes": {"size": {"model.dim": [8, 16]}}},
    "model": TINY["model"] | {"attention": {"normalization": "subtraction"}},
    "trainer": {"max_images": 1920, "val_every_images": 640},
}


@pytest.fixture(scope="module")
def machines() -> Iterator[Network]:
    with network("lh", "10.78.1", 2) as net:
        yield net


@pytest.fixture
def net(machines: Network) -> Iterator[Network]:
    yield machines
    machines.as_new()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Losses:
    """Losses of the larger cell by one process."""
    place = make_place(tmp_path_factory.mktemp("undisturbed"), **TWO_CELLS)
    code, _, err = place.study("model.dim=16")
    assert (code, err) == (0, "")
    return place.losses()


def command(net: Network, *overrides: str) -> list[str]:
    block = shell_blocks("cluster.md")["On each of two machines"]
    (words,) = typed(block, **{"kv_gate": "tiny", "10.0.0.1:29500": f"{net.address(1)}:{RENDEZVOUS}"})
    return [sys.executable, *words, *overrides]


def ended(process: subprocess.Popen[str], seconds: float = 240) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def assert_as_if_undisturbed(place: Place, undisturbed: Losses, cells: int = 1) -> None:
    """Each cell is done, in one run, with the curve of one process and no step twice."""
    assert set(place.states().values()) == {"done"}
    assert [run.data.tags[STATUS] for run in place.attempts()] == ["done"] * cells
    losses = place.losses()
    assert len(losses) == cells
    assert losses.keys() <= undisturbed.keys()
    for cell in losses:
        curve = undisturbed[cell]
        assert [images for images, _ in losses[cell]] == [images for images, _ in curve]
        assert [loss for _, loss in losses[cell]] == pytest.approx([loss for _, loss in curve], abs=1e-5)


def when_at_work(place: Place, images: int, action: Callable[[Path], None]) -> threading.Thread:
    """Call an action once the group of the first cell has seen so many images."""

    def watch() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            time.sleep(0.05)
            for progress in (place.folder / "runs/tiny").glob("*/progress.json"):
                with suppress(FileNotFoundError):
                    if json.loads(progress.read_text())["images"] >= images:
                        action(progress.parent)
                        return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("fault", ["host", "link"])
def test_two_machines_train_as_one(tmp_path: Path, net: Network, undisturbed: Losses, fault: str) -> None:
    """All processes of the second machine are killed, and it comes back; the link is slow, then cut for 25 s."""
    place = make_place(tmp_path, **TWO_CELLS)
    one, two = (net.start(net.host(i), command(net, "model.dim=16"), tmp_path) for i in (1, 2))
    again: list[subprocess.Popen[str]] = []

    def strike(folder: Path) -> None:
        if fault == "host":
            net.kill(net.host(2))
            again.append(net.start(net.host(2), command(net, "model.dim=16"), tmp_path))
        else:
            net.slow(2, 20)
            time.sleep(1)
            net.link(2, "down")
            time.sleep(25)
            net.link(2, "up")

    striking = when_at_work(place, 700, strike)
    code, out, err = ended(one)
    striking.join()
    assert (code, err) == (0, ""), out
    follower = again[0] if again else two
    code, shown, err = ended(follower, 30)
    assert (code, err) == (0, ""), shown
    assert shown.splitlines() == [f"following {net.address(1)}:{RENDEZVOUS}", "the study has ended"]
    assert_as_if_undisturbed(place, undisturbed)
    (restart,) = [line for line in out.splitlines() if line.startswith("the group was restarted")]
    assert {"host": "rank 1 on lh2 was lost", "link": "lh2 has not been heard of for 20 s"}[fault] in restart
    for folder in (tmp_path / "runs/tiny").glob("*/logs"):
        hosts = {json.loads((folder / f"rank-{rank}.json").read_text())["host"] for rank in (0, 1)}
        assert hosts == {"lh1", "lh2"}


def test_stages_on_two_machines_are_those_of_one_also_when_a_machine_is_lost(tmp_path: Path, net: Network) -> None:
    """It is lost while the cooldown branch goes on with the trunk."""
    place, reference = make_place(tmp_path, **STAGED), make_place(tmp_path / "here", **STAGED)
    code, _, err = reference.study()
    assert (code, err) == (0, "")
    one, two = (net.start(net.host(i), command(net), tmp_path) for i in (1, 2))
    again: list[subprocess.Popen[str]] = []

    def strike(folder: Path) -> None:
        net.kill(net.host(2))
        again.append(net.start(net.host(2), command(net), tmp_path))

    striking = when_at_work(place, 1200, strike)
    code, out, err = ended(one)
    striking.join()
    assert (code, err) == (0, ""), out
    assert ended(again[0], 30)[0] == 0
    two.communicate()
    assert "rank 1 on lh2 was lost" in out
    assert_as_if_undisturbed(place, reference.losses(), cells=3)
    for folder in (place.folder, reference.folder):
        results = [json.loads(path.read_text())["result"] for path in folder.glob("runs/tiny/*/result.json")]
        assert [result["steps"] for result in sorted(results, key=lambda r: r["images_seen"])] == [60, 60, 120]
        assert all("val/loss_ema_0.070" in result["metrics"] for result in results)


def test_a_leader_that_is_killed_and_restarted_finds_its_follower(
    tmp_path: Path, net: Network, undisturbed: Losses
) -> None:
    place = make_place(tmp_path, **TWO_CELLS)
    one, two = (net.start(net.host(i), command(net, "model.dim=16"), tmp_path) for i in (1, 2))
    striking = when_at_work(place, 700, lambda folder: net.kill(net.host(1)))
    striking.join()
    one.wait(timeout=30)
    code, out, err = ended(net.start(net.host(1), command(net, "model.dim=16"), tmp_path))
    assert (code, err) == (0, ""), out
    assert ended(two, 30)[0] == 0
    assert_as_if_undisturbed(place, undisturbed)


def test_ctrl_c_at_the_leader_saves_the_state_and_sends_the_follower_home(
    tmp_path: Path, net: Network, undisturbed: Losses
) -> None:
    place = make_place(tmp_path, **TWO_CELLS)
    one, two = (net.start(net.host(i), command(net, "model.dim=16"), tmp_path) for i in (1, 2))
    striking = when_at_work(place, 700, lambda folder: one.send_signal(signal.SIGINT))
    striking.join()
    code, _, err = ended(one, 60)
    assert (code, err) == (130, "error: stopped; the same command resumes\n")
    assert ended(two, 30)[0] == 0
    saved = max((tmp_path / "runs/tiny").glob("*/step-*.ckpt")).stem
    assert int(saved.removeprefix("step-")) > 700 / 16
    code, out, err = place.study("model.dim=16")
    assert (code, err) == (0, ""), out
    assert_as_if_undisturbed(place, undisturbed)


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        (None, (), "has not reached 10.78.1.1:29500 for 6 s: see that the same command runs there"),
        ((), ("seed=1",), "lh2 does not run what lh1 runs: cells is 2 ("),
        ((), ("paths.runs=elsewhere",), "lh2 does not see the folder of runs that lh1 writes to"),
        ((), ("study.resources.accelerator=gpu",), "study.resources.accelerator=gpu: lh2 has no GPU"),
    ],
    ids=["no leader", "seed", "folder", "gpu"],
)
def test_machines_that_disagree_are_refused_with_the_host_and_the_cause(
    tmp_path: Path, net: Network, first: tuple[str, ...] | None, second: tuple[str, ...] | None, sentence: str
) -> None:
    make_place(tmp_path, **TWO_CELLS)
    patience = "torchrun.wait_seconds=6"
    processes = [
        net.start(net.host(i), command(net, patience, *overrides), tmp_path)
        for i, overrides in ((1, first), (2, second))
        if overrides is not None
    ]
    start = time.monotonic()
    said = [ended(process, 60) for process in processes]
    assert time.monotonic() - start < 40
    assert all(code in (1, 2) for code, _, _ in said), said
    assert any(sentence in err for _, _, err in said), said


def test_a_port_that_is_taken_and_another_version_of_the_code_are_refused(tmp_path: Path, net: Network) -> None:
    make_place(tmp_path, **TWO_CELLS)
    patience = "torchrun.wait_seconds=6"
    listen = f"import socket,time; s=socket.create_server(('{net.address(1)}', {RENDEZVOUS})); time.sleep(60)"
    taken = net.start(net.host(1), [sys.executable, "-c", listen], tmp_path)
    time.sleep(1)
    code, _, err = ended(net.start(net.host(1), command(net, patience), tmp_path))
    assert code == 1
    assert f"lh1 cannot listen at {net.address(1)}:{RENDEZVOUS} (Address already in use)" in err
    taken.kill()
    taken.wait()
    shutil.copytree(ROOT / "lina_lab", tmp_path / "copy/lina_lab")
    with (tmp_path / "copy/lina_lab/model/lina.py").open("a") as file:
        file.write("# another version\n")
    one = net.start(net.host(1), command(net, patience), tmp_path)
    two = net.start(net.host(2), command(net, patience), tmp_path, {"PYTHONPATH": str(tmp_path / "copy")})
    assert "lh2 does not run what lh1 runs: lina_lab is " in ended(two)[2]
    assert "(lh2 does not run what lh1 runs: lina_lab is " in ended(one)[2]
