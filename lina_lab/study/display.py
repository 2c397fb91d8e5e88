"""What is shown while a study runs: a live display in a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
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

    def workers_progress(self, running: Mapping[str, Progress]) -> None:
        """Other processes have come this far: label of a running cell -> its progress. Prints a line a minute each."""
        if time.monotonic() - self._shown >= LINE_SECONDS:
            self._shown = time.monotonic()
            for label, progress in running.items():
                self.line(f"{time.strftime('%F %T')} {label}: {progress}")

    def cell_ended(self, cell: Cell, status: CellStatus, detail: str) -> None:
        """A cell ended; `detail` is for people."""
        self.line(f"{self.number}/{self.total}  {cell.label}: {status}, {detail}")

    def ended(self) -> None:
        """Nothing more will be shown."""

    def line(self, text: str) -> None:
        """Print a line for people, at any time."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


class LiveDisplay(PlainDisplay):
    """The same lines, with bars under them: the study's, and that of each running cell instead of its line a minute."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.progress = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self.study = self.progress.add_task("study", note="cells")
        self.cell = self.progress.add_task("", visible=False, note="")
        self.others: dict[str, TaskID] = {}

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
        self._update(self.cell, progress)

    def workers_progress(self, running: Mapping[str, Progress]) -> None:
        for label in self.others.keys() - running.keys():
            self.progress.remove_task(self.others.pop(label))
        for label, progress in running.items():
            if label not in self.others:
                self.others[label] = self.progress.add_task(label, total=progress.total_images, note="")
            self._update(self.others[label], progress)

    def _update(self, bar: TaskID, progress: Progress) -> None:
        self.progress.update(bar, completed=progress.images, note=", ".join(["images", *progress.figures]))

    def cell_ended(self, cell: Cell, status: CellStatus, detail: str) -> None:
        super().cell_ended(cell, status, detail)
        self.progress.update(self.study, completed=self.number)

    def ended(self) -> None:
        self.progress.stop()


def display() -> PlainDisplay:
    """The display that fits standard output: a terminal or a file."""
    console = Console()
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)
