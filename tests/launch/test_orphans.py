"""Processes of a group whose launcher has died, also before they looked for it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from lina_lab.config import ResourcesConfig
from lina_lab.launch.contract import EngineName, LaunchSpec
from lina_lab.launch.rank import ORPHANED
from lina_lab.launch.torchrun import LOOPBACK, agent_command, free_port

SPEC = LaunchSpec(
    attempt="a", engine=EngineName.TORCHRUN, tracking=None, resources=ResourcesConfig(accelerator="cpu", devices=1)
)
STARTS_AND_DIES = """
import os, subprocess, sys
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
print(subprocess.Popen([*sys.argv[1:], str(os.getpid())], **quiet).pid, flush=True)
os._exit(9)
"""
WORKS_FOR_A_POOL = """
import os, pathlib, subprocess, sys, time
if len(sys.argv) == 2:
    environment = {**os.environ, "LINA_PARENT": str(os.getpid())}
    subprocess.Popen([sys.executable, __file__, sys.argv[1], "work"], env=environment)
    os._exit(9)
from lina_lab.util.signals import stop_with_parent, stops_as_exceptions
with stops_as_exceptions():
    try:
        stop_with_parent()
        time.sleep(600)
    finally:
        pathlib.Path(sys.argv[1]).write_text(repr(sys.exc_info()[1]))
"""
HOLDS_THE_LOCK = """
import pathlib, sys, time
from lina_lab.launch.contract import LaunchSpec
from lina_lab.launch.rank import _only_group
folder = pathlib.Path(sys.argv[1])
with _only_group(folder, LaunchSpec.read(folder)):
    print("held", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    SPEC.write(tmp_path)
    return tmp_path


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def gone(number: int) -> bool:
    try:
        return psutil.Process(number).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_an_agent_whose_launcher_died_before_it_could_look_starts_no_rank(folder: Path) -> None:
    command = agent_command(folder, 0, LOOPBACK, free_port(LOOPBACK), "")[:-1]
    launcher = [sys.executable, "-c", STARTS_AND_DIES, *command]
    dead = subprocess.run(launcher, stdout=subprocess.PIPE, text=True, check=False)
    wait_until(lambda: gone(int(dead.stdout)))
    assert list((folder / "logs").iterdir()) == []


def test_a_rank_whose_agent_died_before_it_could_look_ends(folder: Path) -> None:
    agent = subprocess.Popen(["true"])
    agent.wait()
    rank = subprocess.run(
        [sys.executable, "-m", "lina_lab.launch.rank", str(folder), str(agent.pid)],
        env={**os.environ, "RANK": "0"},
        timeout=120,
        check=False,
    )
    assert rank.returncode == ORPHANED


def test_a_rank_of_an_earlier_attempt_gives_its_lock_to_the_later_one(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS_THE_LOCK, str(folder)], stdout=subprocess.PIPE, text=True
    ) as earlier:
        assert earlier.stdout is not None
        assert earlier.stdout.readline() == "held\n"
        time.sleep(2.5)
        assert earlier.poll() is None
        replace(SPEC, attempt="b").write(folder)
        with FileLock(folder / "group.lock").acquire(timeout=20):
            assert earlier.wait(timeout=20) == ORPHANED


def test_a_worker_whose_pool_died_before_it_could_look_stops_in_order(tmp_path: Path) -> None:
    script, note = tmp_path / "work.py", tmp_path / "note"
    script.write_text(WORKS_FOR_A_POOL)
    subprocess.run([sys.executable, str(script), str(note)], check=False)
    wait_until(lambda: note.exists() and note.read_text())
    assert note.read_text() == "SystemExit(143)"
