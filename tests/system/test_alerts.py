"""Alerts of several processes: each event once, also where a process dies with its command."""

from collections import Counter
from pathlib import Path

import pytest

from tests.system.conftest import make_place

pytestmark = pytest.mark.system
SCRIPT = """#!/bin/sh
echo "$LINA_EVENT $LINA_CELL $LINA_STATUS" >> events.txt
test "$LINA_CELL" != "division 16 seed 0" || kill -9 $PPID
"""


def test_each_event_is_told_once_by_two_workers_of_which_one_is_killed_while_it_tells(tmp_path: Path) -> None:
    short = {"trainer": {"max_images": 64, "val_every_images": 64}, "sampling": {"images_per_class": 0}}
    place = make_place(tmp_path, alerts={"command": "./alert.sh", "on": ["done", "study"]}, **short)
    (tmp_path / "alert.sh").write_text(SCRIPT)
    (tmp_path / "alert.sh").chmod(0o755)
    code, out, err = place.study("workers=2")
    assert (code, err) == (0, ""), out
    told = Counter((tmp_path / "events.txt").read_text().splitlines())
    cells = (f"cell {variant} {size} seed 0 done" for variant in ("division", "subtraction") for size in (8, 16))
    assert told == Counter([*cells, "study  done"])
