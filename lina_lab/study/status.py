"""The state of a study, as text for people and as data for programs."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import median
from typing import Any

from lina_lab.config.names import said, short_names
from lina_lab.records.record import Record
from lina_lab.records.result import Progress, duration
from lina_lab.records.status import CellStatus
from lina_lab.study.stored import StoredCell, StoredStudy

ENOUGH = 100
"""Finished cells whose time is read at most, to estimate that of the others."""
SHOWN = 100
"""Cells that a table for people lists at most; those that wait or are done are left out first."""
FIGURES: dict[str, Callable[[Progress], str]] = {
    "learning rate": lambda p: _shown(p.learning_rate, ".3g"),
    "gradient norm": lambda p: _shown(p.gradient_norm, ".3g"),
    "spikes": lambda p: _shown(p.loss_spikes or None, "d"),
    "images/s": lambda p: _shown(p.images_per_second, ",.0f"),
    "of peak": lambda p: _shown(p.share_of_peak, ".1%"),
    "MiB": lambda p: _shown(p.memory_mib, ",.0f"),
    "left": lambda p: "" if p.seconds_left is None else duration(p.seconds_left),
}
"""Column -> what it shows of a cell's progress: what the line a minute in its log says after the loss."""
COLUMNS = ("id", "state", "cell", "images", "loss", *FIGURES, "where", "since")
"""A column that is empty for all cells shown is left out."""
WATCHED = (
    "step",
    "learning_rate",
    "gradient_norm",
    "loss_spikes",
    "images_per_second",
    "share_of_peak",
    "memory_mib",
    "seconds_left",
)
"""Fields of the progress that programs get under their own names."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the folder of a cell says."""

    progress: Progress | None = None
    """Of a cell that has been trained, or is being trained."""
    metrics: Mapping[str, float] | None = None
    """The objectives of a cell that is done."""
    host: str | None = None
    job: str | None = None
    stale: bool = False
    """It is noted as running, and the process that ran it has died."""


@dataclass(frozen=True, kw_only=True)
class CellView:
    """What is known of one cell."""

    cell: StoredCell
    label: str
    """Its values with the names of their fields, such as `gate=kv dim=16 seed=0`."""
    look: Callable[[], Seen]
    """Reads the cell's folder."""

    @cached_property
    def seen(self) -> Seen:
        """What its folder says, read when it is first shown: a table leaves most of thousands of cells out."""
        return self.look()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for programs."""
        state, seen, progress = self.cell.state, self.seen, self.seen.progress
        return {
            "id": state.config_hash,
            "label": self.label,
            "fields": self.cell.point,
            "state": state.status.value,
            "stale": seen.stale,
            "images": 0 if progress is None else progress.images,
            "total_images": self.cell.images,
            "loss": None if progress is None else progress.loss,
            **{name: None if progress is None else getattr(progress, name) for name in WATCHED},
            "objectives": seen.metrics,
            "host": seen.host,
            "job": seen.job,
            "since": None
            if self.cell.started is None
            else self.cell.started.astimezone().isoformat(timespec="seconds"),
            "error": state.error,
        }

    def row(self) -> tuple[str, ...]:
        """The cells of a table's row, see `COLUMNS`."""
        state, seen, progress, total = self.cell.state, self.seen, self.seen.progress, self.cell.images
        loss = next(iter(seen.metrics.values())) if seen.metrics else None if progress is None else progress.loss
        images = 0 if progress is None else progress.images
        where = " ".join([*([seen.host] if seen.host else []), *([f"job {seen.job}"] if seen.job else [])])
        return (
            state.config_hash,
            "stale" if seen.stale else state.status.value,
            self.label,
            f"{images:,}" + ("" if total is None else f" of {total:,}"),
            _shown(loss, ".4f"),
            *("" if progress is None else show(progress) for show in FIGURES.values()),
            where,
            "" if self.cell.started is None else f"{self.cell.started.astimezone():%Y-%m-%d %H:%M}",
        )


@dataclass(frozen=True, kw_only=True)
class StudyView:
    """What is known of a study."""

    name: str
    cells: Sequence[CellView]
    counts: Mapping[CellStatus, int]
    lines: Sequence[str]
    """How tuning and stopping stand, for people."""
    seconds_left: float | None
    """Of all that is left, with as many workers as there are now, or one; None: no cell tells how long one takes."""

    @property
    def working(self) -> bool:
        """Whether any cell is being trained."""
        return any(view.cell.state.status is CellStatus.RUNNING for view in self.cells)

    @property
    def open(self) -> int:
        """Cells that have not ended."""
        return sum(count for status, count in self.counts.items() if status.open)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for programs."""
        return {
            "study": self.name,
            "counts": {status.value: count for status, count in self.counts.items()},
            "left": self.open,
            "seconds_left": self.seconds_left,
            "notes": list(self.lines),
            "cells": [view.to_dict() for view in self.cells],
        }

    def summary(self) -> str:
        """One line: how many cells have which status, and the time left."""
        counted = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        text = f"{self.name}: {counted or 'no cells'}"
        return text + (f"; {duration(self.seconds_left)} left" if self.open and self.seconds_left is not None else "")

    def __str__(self) -> str:
        """The whole state for people."""
        lines = [self.summary(), *(f"  {line}" for line in self.lines)]
        order = list(CellStatus)
        quiet = (CellStatus.DONE, CellStatus.WAITING)
        first = [view for view in self.cells if view.cell.state.status not in quiet]
        others = [view for view in self.cells if view.cell.state.status in quiet]
        shown = (first + others)[:SHOWN]
        shown.sort(key=lambda view: order.index(view.cell.state.status))
        columns = [c for c in zip(COLUMNS, *(view.row() for view in shown), strict=True) if any(c[1:])]
        widths = [max(map(len, column)) for column in columns]
        lines += ["  ".join(["", *map(str.ljust, row, widths)]).rstrip() for row in zip(*columns, strict=True)]
        if len(self.cells) > len(shown):
            lines.append(f"  and {len(self.cells) - len(shown)} more: --json lists them all")
        bad = [view for view in first if view.cell.state.error]
        lines += [f"  {view.cell.state.config_hash} {view.cell.state.status}: {view.cell.state.error}" for view in bad]
        return "\n".join(lines) + "\n"


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def look(study: StoredStudy, choose: Callable[[list[StoredCell]], list[StoredCell]]) -> StudyView:
    """Look at a study's stores and at its cells' folders.

    Args:
        study: the study.
        choose: chooses the cells that are shown. What is left and the counts are the whole study's.
    """
    every = study.cells()
    chosen = choose(every)
    names = _names(every)
    views = [CellView(cell=cell, label=said(cell.point, names), look=partial(_seen, study, cell)) for cell in chosen]
    return StudyView(
        name=study.name,
        cells=views,
        counts=dict(Counter(cell.state.status for cell in every)),
        lines=_lines(study, every),
        seconds_left=_seconds_left(study, every),
    )


def labels(cells: Sequence[StoredCell]) -> dict[str, str]:
    """The label of each cell, by its config hash."""
    names = _names(cells)
    return {cell.state.config_hash: said(cell.point, names) for cell in cells}


def _names(cells: Sequence[StoredCell]) -> dict[str, str]:
    return short_names(field for cell in cells for field in cell.point)


def _seen(study: StoredStudy, cell: StoredCell) -> Seen:
    if cell.state.status is CellStatus.WAITING:
        return Seen()
    if cell.state.status is CellStatus.RUNNING:
        lives, beat = study.owner(cell)
        if beat is None:
            return Seen(stale=not lives)
        return Seen(progress=beat.progress, host=beat.host, job=study.job(cell))
    record, progress = study.record(cell), None
    if record is not None and record.result is not None:
        result = record.result
        loss = result.metrics.get("train/loss", float("nan"))
        rate = result.images_per_second
        progress = Progress(images=result.images_seen, loss=loss, step=result.steps, images_per_second=rate)
    return Seen(progress=progress, metrics=_objectives(study, cell))


def _objectives(study: StoredStudy, cell: StoredCell) -> dict[str, float] | None:
    if cell.state.values is None:
        return None
    if study.definition is None:
        return dict(zip((f"objective {i}" for i in range(len(cell.state.values))), cell.state.values, strict=True))
    metrics = [objective.metric for objective in study.definition.objectives]
    return dict(zip(metrics, cell.state.values, strict=True))


def _lines(study: StoredStudy, cells: Sequence[StoredCell]) -> list[str]:
    definition = study.definition
    if definition is None:
        return []
    races = definition.pruning is not None and definition.pruning.racing is not None
    if not (definition.tune or definition.until or races):
        return []
    plan = study.plan(cells)
    if plan is None:
        return []
    from lina_lab.study.rounds import notes, phase

    stopped = [f"stopped: {plan.stopped}"] if plan.stopped else []
    return [f"phase: {phase(plan)}", *notes(plan), *stopped]


def _seconds_left(study: StoredStudy, cells: Sequence[StoredCell]) -> float | None:
    """Time of the cells that have not ended: of a running one as it says, of another from what finished ones took."""
    left, running, paces = 0.0, 0, list[float]()
    for cell in cells:
        if cell.state.status is CellStatus.DONE and cell.flops and len(paces) < ENOUGH:
            record = study.record(cell)
            if record is not None and (seconds := _seconds(record)) is not None:
                paces.append(seconds / cell.flops)
    for cell in cells:
        lives, beat = study.owner(cell) if cell.state.status is CellStatus.RUNNING else (False, None)
        running += lives
        if beat is not None and beat.progress is not None and beat.progress.seconds_left is not None:
            left += beat.progress.seconds_left
        elif cell.state.status.open:
            if not paces or not cell.flops:
                return None
            left += median(paces) * cell.flops
    return left / max(1, running)


def _seconds(record: Record) -> float | None:
    """What a whole cell took: with validation and sampling where one attempt trained it, else training alone."""
    result = record.result
    if result is None or not result.images_per_second:
        return None
    return result.fit_seconds if result.resumed_at is None else result.images_seen / result.images_per_second
