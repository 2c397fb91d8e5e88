"""A study that tunes, compares and adds seeds, by two workers of which one is killed while it tunes."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from lina_lab.records.files import CONFIG_FILE
from lina_lab.records.runstore import CELL, PHASE
from lina_lab.study.lease import HEARTBEAT_FILE
from tests.system.conftest import make_place
from tests.system.test_workers import workers_of

pytestmark = pytest.mark.system
TUNED: dict[str, Any] = {
    "study": {
        "question": "Does it tune?",
        "axes": {
            "normalization": {"model.attention.normalization": ["division", "subtraction"]},
            "size": {"model.dim": [8]},
        },
        "size_axis": "size",
        "seeds": [0, 1],
        "tune": {"optimizer.lr": [1e-6, 0.01, 10.0]},
        "tuning": {"seeds": [100]},
        "primary": {"axis": "normalization", "treatment": "subtraction", "baseline": "division"},
        "until": {"width": 1e-9, "max_seeds": 3},
    },
    "trainer": {"max_images": 160, "val_every_images": 160},
    "sampling": {"images_per_class": 0},
}
TUNING, COMPARED = 6, 6


def test_a_worker_that_is_killed_while_it_tunes_changes_nothing(tmp_path: Path) -> None:
    alone = make_place(tmp_path / "alone", **TUNED)
    code, out, err = alone.study()
    assert (code, err) == (0, ""), out
    assert "tiny: 12 done" in out

    place = make_place(tmp_path / "killed", **TUNED)
    process = place.start("-m", "lina_lab.run", "study=tiny", "workers=2")
    folder, deadline = place.folder / "runs/tiny", time.monotonic() + 300
    # The heartbeat is there before the cell runs; its configuration is written when it does.
    while not (beats := [f for f in folder.glob(f"*/{HEARTBEAT_FILE}") if (f.parent / CONFIG_FILE).exists()]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    victim = json.loads(beats[0].read_text())["pid"]
    assert victim in [worker.pid for worker in workers_of(psutil.Process(process.pid))]
    psutil.Process(victim).kill()
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, ""), out
    assert "tiny: 12 done" in out
    ended = Counter(cell for cell, state in place.trials() if state == "done")
    assert set(ended.values()) == {1}
    assert "interrupted" in {state for _, state in place.trials()}
    # The rates that were chosen are in the cells' hashes, and the losses show that nothing was trained otherwise.
    assert place.losses() == alone.losses()
    phases = {run.data.tags[CELL]: run.data.tags[PHASE] for run in place.attempts()}
    assert Counter(phases.values()) == {"tuning": TUNING, "comparison": COMPARED}

    code, out, err = place.study("action=status")
    assert (code, err) == (0, "")
    assert "phase: comparison" in out
    assert "division 8: optimizer.lr" in out
    assert "primary comparison with 3 seeds: " in out
    code, out, err = place.study()
    assert (code, err) == (0, "")
    assert len(place.attempts()) == TUNING + COMPARED


def test_an_optimum_at_the_edge_ends_the_command_with_a_sentence(tmp_path: Path) -> None:
    edge = {"study": TUNED["study"] | {"tune": {"optimizer.lr": [1e-6, 1e-5, 1e-4]}, "tuning": {"seeds": [100]}}}
    place = make_place(tmp_path, **(TUNED | edge))
    code, out, err = place.study("workers=2")
    assert code == 1
    assert err.startswith("error: no optimum of optimizer.lr was found: division 8 is best at 0.0001, the largest")
    assert len(err.splitlines()) == 1
    assert "tiny: 6 done" in out
