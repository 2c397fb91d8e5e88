"""Compares the three stores of a study, and restores in one what it has lost from another.

The queue says which cells have a result. Each of them has its record and its curve in its folder, and a run in MLflow.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lina_lab.config import to_dict
from lina_lab.records.record import Record, follow_run, read_record, write_config, write_record
from lina_lab.records.runstore import CELL, STATUS
from lina_lab.records.status import CellStatus
from lina_lab.study.grid import Cell
from lina_lab.study.lease import Lease
from lina_lab.study.note import standing
from lina_lab.study.patience import patiently
from lina_lab.study.store import Store
from lina_lab.study.summary import summarise
from lina_lab.util.compat.mlflow import tags_of_database, tags_of_server

if TYPE_CHECKING:
    from lina_lab.study.tracking import Tracker

SHOWN = 3
"""Cells that a line names."""
SQLITE = "sqlite:///"
FINAL = tuple(status for status in CellStatus if status.final)


class Loss(StrEnum):
    """What a cell with a result had lost; the value says what became of it."""

    DELETED_RUN = "had deleted runs in MLflow, which are restored"
    RUN = "had no run in MLflow with their result; it was sent again from their folders"
    RUN_AND_CURVE = (
        "had no run in MLflow with their result; it was sent again from their folders, which hold no curve, because an "
        "earlier version trained them"
    )
    FOLDER = "had no result in their folders; it was fetched from MLflow, but checkpoints are gone"
    FILES = "have lost their folders, and with them checkpoints and pictures; their numbers are in MLflow"
    ALL = "have a result neither in their folders nor in MLflow: they are trained again"


def restore(store: Store, tell: Callable[[str], None]) -> None:
    """Compare queue, folders and tracker, and restore what is lost of the plan's cells that have a result.

    Args:
        store: the queue; a cell whose result is in no other store is queued again.
        tell: called with a line for each kind of loss.

    Raises:
        StudyError: the tracking store does not answer.
    """
    states = store.states()
    ended = [c for c in store.plan.cells if c.config_hash in states and states[c.config_hash].status.final]
    if not ended:
        return
    tracked = _tracked(store, tell)
    damaged = [c for c in ended if c.config_hash not in tracked or _kept(store, c) is None]
    if not damaged:
        return
    losses = _restored(store, damaged, tracked, tell)
    for loss, cells in losses.items():
        more = f" and {len(cells) - SHOWN} more" if len(cells) > SHOWN else ""
        tell(f"{len(cells)} cells {loss}: {', '.join(cell.label for cell in cells[:SHOWN])}{more}")
    store.requeue([cell.config_hash for cell in losses[Loss.ALL]])


def _tracked(store: Store, tell: Callable[[str], None]) -> set[str]:
    """Cells whose result MLflow has. MLflow, which takes seconds to import, is needed for a server only."""
    uri, study, names = store.workspace.tracking_address, store.plan.study.name, (CELL, STATUS)
    if uri.startswith("http"):
        read = tags_of_server
    else:
        read = tags_of_database
        if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
            return set()
    found = patiently(partial(read, uri, study, names), tell, store.runs)
    return {tags[CELL] for tags in found if CELL in tags and tags.get(STATUS) in FINAL}


def _kept(store: Store, cell: Cell) -> Record | None:
    kept = read_record(store.folder / cell.config_hash, cell.config_hash)
    return kept if kept is not None and kept.status.final else None


def _restored(
    store: Store, cells: list[Cell], tracked: set[str], tell: Callable[[str], None]
) -> dict[Loss, list[Cell]]:
    """Restore what can be; returns the cells by what they had lost."""
    from lina_lab.study.tracking import Tracker

    with store.setup():
        tracker = patiently(partial(Tracker.open, store.workspace), tell, store.runs)
    # An experiment that was deleted is back, with its runs.
    back = _tracked(store, tell)
    losses: dict[Loss, list[Cell]] = defaultdict(list)
    for cell in cells:
        lease = Lease.take(store.folder / cell.config_hash)
        if lease is None:
            continue  # another command is at it
        try:
            action = partial(_restore, tracker, store, cell, has_run=cell.config_hash in back)
            loss = patiently(action, tell, store.runs)
        finally:
            lease.release()
        if loss is None and cell.config_hash not in tracked:
            loss = Loss.DELETED_RUN
        if loss is not None:
            losses[loss].append(cell)
    plan, states = store.plan, store.states()
    now = standing(plan, states, summarise(plan, states, []))
    patiently(partial(tracker.summarise, now, {}, plan.tuned, ended=True), tell, store.runs)
    return losses


def _restore(tracker: "Tracker", store: Store, cell: Cell, *, has_run: bool) -> Loss | None:
    """Restore one cell. May be done twice."""
    folder, kept = store.folder / cell.config_hash, _kept(store, cell)
    undeleted = not has_run and tracker.undelete(cell.config_hash)
    if kept is None:
        if not has_run and not undeleted:
            return Loss.ALL
        return Loss.FOLDER if tracker.fetch(cell, folder) else Loss.FILES
    if has_run or undeleted:
        return Loss.DELETED_RUN if undeleted else None
    run_id = tracker.start(cell, write_config(folder, to_dict(cell.config)), kept)
    whole = follow_run(folder, run_id, anew=True)
    record = replace(kept, mlflow_run=run_id)
    write_record(folder, record)
    tracker.record(record, folder)
    return Loss.RUN if whole else Loss.RUN_AND_CURVE
