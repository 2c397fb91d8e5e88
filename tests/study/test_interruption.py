"""Ctrl-C wherever it falls: no cell seems to run, none is held, and the same command goes on."""

import gc
import os
import random
import signal
import sys
from types import FrameType
from typing import Any

import pytest

from lina_lab.config import TrialConfig
from lina_lab.records.result import TrialResult
from lina_lab.study.lease import Lease
from lina_lab.study.store import Store
from tests.study.conftest import Lab, raising, store_at

FIRST_CLAIM, CALLS = 8_000, 210_000
"""About as many functions are called to claim the first cell, and to work through all."""


def work(lab: Lab, *interrupted_at: int) -> None:
    """Run the study; at so many function calls after its preparations this process gets a SIGINT each."""
    launcher, calls = lab.launcher, 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"
        if event == "call" and calls in interrupted_at:
            os.kill(os.getpid(), signal.SIGINT)

    def counting() -> Any:
        sys.setprofile(profile)
        return launcher()

    lab.launcher = counting  # type: ignore[method-assign]
    try:
        lab.run()
    finally:
        sys.setprofile(None)
        lab.launcher = launcher  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("within", "again"), [(FIRST_CLAIM, None), (CALLS, None), (CALLS, 5000)], ids=["claim", "all", "twice"]
)
@pytest.mark.parametrize("seed", range(4))
def test_wherever_it_falls(lab: Lab, within: int, again: int | None, seed: int) -> None:
    """Once; or twice, as from a terminal, which sends it to a worker and to the pool that then tells the worker."""
    first = random.Random(seed).randrange(within)
    with pytest.raises(KeyboardInterrupt):
        work(lab, first, *([] if again is None else [first + again]))
    # A process would be at its end: what an exception still refers to is gone.
    gc.collect()
    store = store_at(lab.runs, lab.plan)
    states = [state.status for state in store.states().values()]
    assert set(states) <= {"done", "interrupted", "waiting"}
    assert states.count("interrupted") <= 1
    for cell in lab.plan.cells:
        lease = Lease.take(store.folder / cell.config_hash)
        assert lease is not None
        lease.release()
    assert {run.info.status for run in lab.cell_runs()} <= {"FINISHED", "KILLED"}
    trained = len(lab.trained)
    assert lab.run().counts == {"done": 4}
    assert len(lab.trained) <= trained + 4
    assert max(map(lab.trained.count, lab.trained)) <= 2
    assert {run.info.status for run in lab.cell_runs()} == {"FINISHED"}


def test_a_cell_is_let_go_though_the_store_fails_when_its_fault_is_recorded(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(config: TrialConfig) -> TrialResult:
        monkeypatch.setattr(Store, "states", lambda store: raising(OSError("the store is gone"))())
        raise RuntimeError("and so is the cell")

    lab.behaviour = break_down
    with pytest.raises(OSError, match="the store is gone"):
        lab.run()
    lease = Lease.take(lab.runs / lab.plan.study.name / lab.plan.cells[0].config_hash)
    assert lease is not None
    lease.release()
