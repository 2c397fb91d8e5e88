"""What a person sees."""

import io
from typing import Any

import pytest
from rich.console import Console

from lina_lab.records.result import Progress
from lina_lab.records.status import CellStatus
from lina_lab.study.display import LiveDisplay, PlainDisplay, display
from lina_lab.study.grid import make_plan


def play(shown: PlainDisplay, tiny_study: Any) -> None:
    cells = make_plan(*tiny_study()).cells
    shown.started(2, 4)
    for cell in cells[2:]:
        shown.cell_started(cell)
        shown.cell_progress(Progress(images=32, loss=0.75))
        shown.cell_ended(cell, CellStatus.DONE, "val/loss_ema 0.5")
    shown.ended()


def test_a_file_gets_a_line_a_cell(tiny_study: Any) -> None:
    file = io.StringIO()
    play(PlainDisplay(Console(file=file)), tiny_study)
    assert file.getvalue().splitlines() == [
        "4 cells, 2 of them done before",
        "3/4  subtraction 8 seed 0: done, val/loss_ema 0.5",
        "4/4  subtraction 16 seed 0: done, val/loss_ema 0.5",
    ]


def test_a_file_gets_a_line_on_the_running_cell_once_a_minute(tiny_study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    file, cell = io.StringIO(), make_plan(*tiny_study()).cells[0]
    shown = PlainDisplay(Console(file=file))
    shown.started(4, 4)
    shown.cell_started(cell)
    for now in range(0, 150, 10):
        shown.cell_progress(Progress(images=now, loss=0.75, step=now, seconds_left=7200.0))
    lines = file.getvalue().splitlines()[1:]
    assert len(lines) == 2
    assert lines[0].endswith(f"1/4  {cell.label}: step 60, 60 images, loss 0.7500, 2 h 00 min left")


RUNNING = {
    "one": Progress(images=32, loss=0.75, total_images=64, gradient_norm=1.5, images_per_second=8.0),
    "two": Progress(images=16, loss=0.5, total_images=64),
}


def test_a_file_gets_a_line_a_minute_on_each_cell_of_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    file = io.StringIO()
    shown = PlainDisplay(Console(file=file, width=200))
    for seconds in range(0, 130, 10):
        now = float(seconds)
        shown.workers_progress(RUNNING)
    lines = file.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0].endswith(" one: 32 of 64 images (50.0%), loss 0.7500, gradient norm 1.5, 8.0 images/s")
    assert lines[1].endswith(" two: 16 of 64 images (25.0%), loss 0.5000")


def test_a_terminal_gets_a_bar_for_each_cell_of_other_processes(tiny_study: Any) -> None:
    file = io.StringIO()
    shown = LiveDisplay(Console(file=file, force_terminal=True, width=150))
    shown.started(4, 4)
    shown.workers_progress(RUNNING)
    shown.workers_progress({"two": RUNNING["two"]})
    shown.ended()
    screen = file.getvalue()
    assert "loss 0.7500, gradient norm 1.5, 8.0 images/s" in screen
    last = screen.rpartition("study")[2]
    assert "two" in last
    assert "one" not in last


def test_a_terminal_gets_bars_too(tiny_study: Any) -> None:
    file = io.StringIO()
    play(LiveDisplay(Console(file=file, force_terminal=True, width=150)), tiny_study)
    screen = file.getvalue()
    assert "4/4  subtraction 16 seed 0: done" in screen
    assert "64/64" not in screen
    assert "32/64" in screen
    assert "loss 0.7500" in screen
    assert "━" in screen


def test_the_display_fits_the_output(capsys: Any) -> None:
    assert type(display()) is PlainDisplay
