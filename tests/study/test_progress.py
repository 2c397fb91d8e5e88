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
