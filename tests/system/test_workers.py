"""Several workers of one study, and their failures: no cell is lost, and none is done twice."""

import random
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from lina_lab.records.runstore import STATUS
from tests.conftest import STUDY
from tests.system.conftest import alive, make_place, wait_for
from tests.system.lab import shell_blocks, typed

pytestmark = pytest.mark.system
SHORT = {"trainer": {"max_images": 160, "val_every_images": 80}}
MANY = {"study": STUDY | {"seeds": list(range(6))}, **SHORT, "sampling": {"images_per_class": 0}}


def workers_of(pool: psutil.Process) -> list[psutil.Process]:
    """Worker processes, without their own children."""
    found = []
    for child in pool.children():
        # One may end between two looks at it.
        with suppress(psutil.NoSuchProcess):
            if "action=work" in child.cmdline():
                found.append(child)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[int, float]]]:
    """Losses of the many cells, by one worker, without failures."""
    place = make_place(tmp_path_factory.mktemp("undisturbed"), **MANY)
    code, _, err = place.study()
    assert (code, err) == (0, "")
    return place.losses()


def test_many_cells_are_done_once_each_though_a_worker_is_killed_every_few_seconds(
    tmp_path: Path, undisturbed: dict[str, list[tuple[int, float]]]
) -> None:
    place, choose = make_place(tmp_path, **MANY), random.Random(0)
    process = place.start("-m", "lina_lab.run", "study=tiny", "workers=3")
    pool, killed, next_kill = psutil.Process(process.pid), 0, time.monotonic() + 12
    while process.poll() is None:
        time.sleep(0.2)
        if time.monotonic() > next_kill and killed < 5:
            found = workers_of(pool)
            if found:
                choose.choice(found).kill()
                killed, next_kill = killed + 1, time.monotonic() + 5
    out, err = process.communicate()
    assert (process.returncode, err) == (0, ""), out
    assert killed >= 3
    assert "tiny: 24 done" in out
    ended = Counter(cell for cell, state in place.trials() if state == "done")
    assert len(ended) == 24
    assert set(ended.values()) == {1}
    assert {state for _, state in place.trials()} <= {"done", "interrupted"}
    assert len(place.attempts()) == 24
    assert place.losses() == undisturbed


def test_a_pool_that_is_stopped_stops_its_workers_and_goes_on(tmp_path: Path) -> None:
    two_cells = STUDY | {"axes": {"size": {"model.dim": [8, 16]}}}
    place = make_place(tmp_path, study=two_cells, trainer={"max_images": 3200, "val_every_images": 800})
    process = place.start(*typed(shell_blocks("cluster.md")["On one machine"], kv_gate="tiny")[0])
    pool, deadline = psutil.Process(process.pid), time.monotonic() + 90
    while len(list((tmp_path / "runs/tiny").glob("*/lease.json"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = workers_of(pool)
    assert len(children) == 2
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 130
    assert err.endswith("the same command resumes\n")
    assert not any(alive(child) for child in children)
    said = "".join(path.read_text() for path in (tmp_path / "runs/tiny").glob("worker-*.log"))
    assert set(place.states().values()) == {"interrupted"}, said
    assert {run.data.tags[STATUS] for run in place.attempts()} <= {"interrupted"}
    code, _, err = place.study("workers=2")
    assert (code, err) == (0, "")
    assert set(place.states().values()) == {"done"}


def test_a_second_command_joins(tmp_path: Path) -> None:
    """Two commands at once share the cells; one without a cell waits for the other's."""
    place = make_place(tmp_path)
    first = place.start("-m", "lina_lab.run", "study=tiny")
    wait_for(lambda: list((tmp_path / "runs/tiny").glob("*/lease.json")))
    both = [first, place.start(*typed(shell_blocks("cluster.md")["On one machine"], kv_gate="tiny")[1])]
    outs = [process.communicate(timeout=300) for process in both]
    assert [(process.returncode, err) for process, (_, err) in zip(both, outs, strict=True)] == [(0, "")] * 2
    assert Counter(state for _, state in place.trials()) == {"done": 4}
    assert len(place.attempts()) == 4
    trained = [sum("images/s" in line for line in out.splitlines()) for out, _ in outs]
    assert sum(trained) == 4
    assert all("tiny: 4 done" in out for out, _ in outs)


def test_a_worker_that_dies_at_every_start_ends_the_pool_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place(tmp_path)
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'action=work' in sys.argv or 'action=work' in getattr(sys, 'orig_argv', []): os._exit(9)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code, _, err = place.study("workers=2")
    assert code == 1
    assert "workers crash (the last with exit code 9)" in err


def test_actions_tell_and_do_what_they_say(tmp_path: Path) -> None:
    place = make_place(tmp_path, empty=True, **SHORT)
    code, out, err = place.study("action=plan")
    assert (code, err) == (0, "")
    assert "4 cells of 1 device" in out
    assert {path.name for path in tmp_path.iterdir()} == {"studies"}
    code, _, err = place.study("action=status")
    assert code == 1
    assert "there is no study tiny" in err
    assert place.study()[0] == 0
    code, out, _ = place.study("action=status", "study.seeds=[0,1]")
    assert (code, out.splitlines()[0]) == (0, "tiny: 4 done")
    code, out, _ = place.study("action=cancel", "study.seeds=[0,1]")
    assert (code, out) == (0, "none of these cells waits or runs\n")


def test_a_running_cell_is_cancelled_and_retried(tmp_path: Path) -> None:
    long = {"trainer": {"max_images": 160_000, "val_every_images": 1600}}
    place = make_place(tmp_path, **long)
    process = place.start("-m", "lina_lab.run", "study=tiny")
    deadline = time.monotonic() + 90
    while not list((tmp_path / "runs/tiny").glob("*/lease.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(2.5)
    _, out, _ = place.study("action=status")
    assert "running" in out
    assert "of 160,000" in out
    code, out, err = place.study("action=cancel")
    assert (code, err) == (0, "")
    assert out.count("cancelled, or asked to end") == 4
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "4 cells were cancelled and have no result" in err
    assert set(place.states().values()) == {"cancelled"}
    first = next(cell for cell, _ in place.trials())
    code, out, _ = place.study("action=retry", f"cells=[{first[:6]}]")
    assert (code, out.split()[:3]) == (0, ["queued", "again:", first])
    assert place.states()[first] == "waiting"
    code, _, err = place.study("action=retry", "cells=[zzz]")
    assert code == 1
    assert "no cell of the study begins with zzz" in err
