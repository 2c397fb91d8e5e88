"""Removes from cells' folders what the present policy of their checkpoints does not keep."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from lina_lab.config import TrialConfig
from lina_lab.config.checkpoint import CheckpointConfig
from lina_lab.records.checkpoints import (
    DIGEST,
    SHARDS,
    bytes_of,
    checkpoint_files,
    delete,
    is_whole,
    read_best,
    weights_files,
)
from lina_lab.records.files import CHECKPOINTS, CONFIG_FILE
from lina_lab.records.record import read_record
from lina_lab.records.status import CellStatus
from lina_lab.study.disk import size
from lina_lab.study.lease import StaleLeases, read_heartbeat
from lina_lab.util.errors import first_line
from lina_lab.util.files import DRAFT


@dataclass(frozen=True, kw_only=True)
class Surplus:
    """What the policy does not keep of a cell's folder."""

    deleted: tuple[Path, ...] = ()
    """Checkpoints and weights."""
    reduced: tuple[Path, ...] = ()
    """Checkpoints of which the weights alone stay."""
    torn: tuple[Path, ...] = ()
    """What a killed process left of a write."""

    def __bool__(self) -> bool:
        return bool(self.deleted or self.reduced or self.torn)

    def __str__(self) -> str:
        parts = [
            f"{len(self.deleted)} of its checkpoints deleted" if self.deleted else "",
            f"{len(self.reduced)} reduced to the weights" if self.reduced else "",
            f"{len(self.torn)} torn files removed" if self.torn else "",
        ]
        return ", ".join(part for part in parts if part)


def surplus(folder: Path, policy: CheckpointConfig, batch_size: int, *, done: bool, verify: bool = True) -> Surplus:
    """What the policy does not keep of a cell's folder, in which no process works.

    Args:
        folder: the cell's.
        policy: the present one.
        batch_size: images of a step.
        done: the cell is recorded as done.
        verify: read the checkpoints that would stay; if all of them are damaged, the newest whole one stays too.
    """
    whole, alone, best = checkpoint_files(folder), weights_files(folder), read_best(folder)
    # Nothing can go on with weights alone: they count where nothing has to.
    every = {**alone, **whole} if done else whole
    kept = policy.kept(every, batch_size, best.step if best and best.metric == policy.keep_best else None, done=done)
    others = sorted(every.keys() - kept, reverse=True)
    if verify and others and not any(is_whole(every[step]) for step in sorted(kept, reverse=True)):
        kept |= set([step for step in others if is_whole(every[step])][:1])
    reduces = done and policy.finished == "weights"
    gone = [
        path for files in ((whole, alone) if done else (whole,)) for step, path in files.items() if step not in kept
    ]
    parts = [path for ending in (DIGEST, SHARDS) for path in folder.glob(f"{CHECKPOINTS}{ending}")]
    return Surplus(
        deleted=tuple(gone),
        reduced=tuple(path for step, path in whole.items() if reduces and step in kept),
        torn=(
            *sorted(folder.glob(f"{CHECKPOINTS}{DRAFT}")),
            *sorted(path for path in parts if not path.with_suffix("").exists()),
        ),
    )


def tidy(folder: Path, policy: CheckpointConfig, batch_size: int, *, done: bool) -> tuple[Surplus, int]:
    """Remove what the policy does not keep of a cell's folder; returns that, and the bytes that are free now.

    Raises:
        OSError: a file cannot be removed or written.
        ValueError: a checkpoint that is to be reduced is damaged.
    """
    found, before = surplus(folder, policy, batch_size, done=done), _bytes(folder)
    for path in (*found.deleted, *found.torn):
        delete(path)
    for path in found.reduced:
        # Imports torch.
        from lina_lab.training.weights_alone import keep_weights_alone

        keep_weights_alone(path)
    return found, before - _bytes(folder)


def reduce_finished(folder: Path, config: TrialConfig) -> str | None:
    """Reduce the checkpoints of a cell that is done to what it keeps; returns what prevented it, as a sentence."""
    if config.checkpoint.finished == "all":
        return None
    try:
        tidy(folder, config.checkpoint, config.data.batch_size, done=True)
    except (OSError, ValueError) as error:
        return f"its checkpoints stay as they are: {first_line(error)}"
    return None


def _bytes(folder: Path) -> int:
    paths = (path for pattern in (CHECKPOINTS, f"{CHECKPOINTS}/*") for path in folder.glob(pattern))
    return sum(path.stat().st_size for path in paths if path.is_file())


def tidy_cells(folders: Iterable[tuple[Path, str]], policy: CheckpointConfig, name: str) -> Iterator[str]:
    """Tidy the folders of cells that no process works on; a line for each that lost something, and one for the study.

    Args:
        folders: the folder of a cell, and its label.
        policy: the present one.
        name: the study's.

    Raises:
        OSError: a file cannot be removed or written.
    """
    freed, cells, running = 0, 0, 0
    for folder, label in folders:
        if not any(folder.glob(CHECKPOINTS)):
            continue
        lease = StaleLeases().acquire(folder)
        if lease is None:
            running += 1
            continue
        try:
            found, free = tidy(folder, policy, _batch_size(folder), done=_is_done(folder))
        except ValueError as error:
            yield f"{folder.name} {label}: left as it is: {first_line(error)}"
            continue
        finally:
            lease.release()
        if found:
            freed, cells = freed + free, cells + 1
            yield f"{folder.name} {label}: {found}, {size(free)}"
    left = f"; {running} running cells stay as they are" if running else ""
    yield (f"{name}: {size(freed)} freed in {cells} cells{left}" if cells else f"{name}: nothing to prune{left}")


def surplus_sentence(cells: Iterable[tuple[Path, TrialConfig, bool]]) -> str:
    """What `lina prune` would do, for a plan: nothing is verified, locked or removed; empty: nothing.

    Args:
        cells: the folder of each, which may not exist; its trial; whether it is recorded as done.
    """
    found = [
        surplus(folder, config.checkpoint, config.data.batch_size, done=done, verify=False)
        for folder, config, done in cells
        if folder.is_dir() and read_heartbeat(folder) is None
    ]
    deleted, reduced = [p for each in found for p in each.deleted], [p for each in found for p in each.reduced]
    if not deleted and not reduced:
        return ""
    parts = [
        f"delete {len(deleted)} checkpoints ({size(sum(map(bytes_of, deleted)))})" if deleted else "",
        f"reduce {len(reduced)} to their weights" if reduced else "",
    ]
    return f"`lina prune` would {' and '.join(part for part in parts if part)}"


def _is_done(folder: Path) -> bool:
    record = read_record(folder, folder.name)
    return record is not None and record.status is CellStatus.DONE


def _batch_size(folder: Path) -> int:
    """Images of a step of the trial in a cell's folder.

    Raises:
        ValueError: its configuration cannot be read.
    """
    try:
        return int(yaml.load((folder / CONFIG_FILE).read_text(), yaml.CSafeLoader)["data"]["batch_size"])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG_FILE} cannot be read: {first_line(error)}") from error
