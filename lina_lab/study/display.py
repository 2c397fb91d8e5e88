"""What is shown while a study runs: a live display in a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from lina_lab.records.result import LINE_SECONDS, Progress
from lina_lab.records.status import CellStatus
from lina_lab.study.grid import Cell


class PlainDisplay:
    """Shows what happens to the cells, a line for each that ends. The methods are called in this order."""

    def __init__(self, console: Console) -> None:
        self.console, self.number, self.total = console, 0, 0
        self._label, self._shown = "", time.monotonic()
        self._noted: set[str] = set()

    def started(self, waiting: int, total: int) -> None:
        """The study starts: `waiting` of its `total` cells are still to run."""
        self.number, self.total = total - waiting, total
        self.line(f"{total} cells, {total - waiting} of them done before")

    def grew(self, total: int, notes: Sequence[str]) -> None:
        """Results have added cells: there are `total` now; shows the notes that it has not shown yet."""
        self.total = total
        for note in notes:
            if note not in self._noted:
                self._noted.add(note)
                self.line(note)

    def cell_started(self, cell: Cell) -> None:
        """A cell starts."""
        self.number += 1
        self._label, self._shown = cell.label, time.monotonic()

    def cell_progress(self, progress: Progress) -> None:
        """The running cell has come this far. Prints a line a minute, so that no log is silent for days."""
        if time.monotonic() - self._shown >= LINE_SECONDS:
            self._shown = time.monotonic()
            self.line(f"{time.strftime('%F %T')} {self.number}/{self.total}  {self._label}: {progress}")

    def cell_ended(self, cell: Cell, status: CellStatus, detail: str) -> None:
        """A cell ended; `detail` is for people."""
        self.line(f"{self.number}/{self.total}  {cell.label}: {status}, {detail}")

    def ended(self) -> None:
        """Nothing more will be shown."""

    def line(self, text: str) -> None:
        """Print a line for people, at any time."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


class LiveDisplay(PlainDisplay):
    """The same lines, with two bars under them: the study's and the running cell's."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.progress = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self.study = self.progress.add_task("study", note="cells")
        self.cell = self.progress.add_task("", visible=False, note="")

    def started(self, waiting: int, total: int) -> None:
        super().started(waiting, total)
        if waiting:
            self.progress.update(self.study, total=total, completed=total - waiting)
            self.progress.start()

    def grew(self, total: int, notes: Sequence[str]) -> None:
        super().grew(total, notes)
        self.progress.update(self.study, total=total)

    def cell_started(self, cell: Cell) -> None:
        super().cell_started(cell)
        self.progress.reset(
            self.cell, total=cell.config.images_seen, description=cell.label, visible=True, note="images"
        )

    def cell_progress(self, progress: Progress) -> None:
        rate = "" if progress.images_per_second is None else f", {progress.images_per_second:,.0f}/s"
        self.progress.update(self.cell, completed=progress.images, note=f"images, loss {progress.loss:.4f}{rate}")

    def cell_ended(self, cell: Cell, status: CellStatus, detail: str) -> None:
        super().cell_ended(cell, status, detail)
        self.progress.update(self.study, completed=self.number)

    def ended(self) -> None:
        self.progress.stop()


def display() -> PlainDisplay:
    """The display that fits standard output: a terminal or a file."""
    console = Console()
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)
