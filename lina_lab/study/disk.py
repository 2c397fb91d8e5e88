"""Disk that a study's cells take, by the policy of their checkpoints; and what the policy keeps no longer."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage

from lina_lab.config import TrialConfig
from lina_lab.config.checkpoint import CheckpointConfig
from lina_lab.records.checkpoints import checkpoint_files, is_whole, read_best, weights_files
from lina_lab.records.files import CHECKPOINTS
from lina_lab.study.cost import checkpoint_bytes, moment_bytes, snapshot_bytes, weight_bytes
from lina_lab.util.files import DRAFT


def needed_bytes(configs: Iterable[TrialConfig], workers: int) -> float:
    """The most that cells take, all of them together, with what is being written.

    Args:
        configs: the cells' trials.
        workers: cells that train at the same time.
    """
    ends, peaks = [0.0], [0.0]
    for config in configs:
        policy, whole = config.checkpoint, checkpoint_bytes(config)
        kept = whole - moment_bytes(config) if policy.finished == "weights" else whole
        ends.append(kept * policy.most_kept(config, done=True) + snapshot_bytes(config))
        # While it trains, with the one that is being written.
        peaks.append(whole * (policy.most_kept(config) + 1) - kept * policy.most_kept(config, done=True))
    return sum(ends) + workers * max(peaks)


def disk_sentence(configs: list[TrialConfig], folder: Path, runs: Path, workers: int) -> str:
    """What the cells' files take, what one checkpoint is made of, and whether there is room.

    Args:
        configs: the trials of the cells that have not ended.
        folder: the study's, which may not exist.
        runs: the folder of all results, as it is shown.
        workers: cells that train at the same time.
    """
    free = disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    room = f"{size(free)} are free under {runs}"
    if not configs:
        return f"no cell is left to train; {room}."
    needed, largest = needed_bytes(configs, workers), max(configs, key=checkpoint_bytes)
    whole, raw, moments = checkpoint_bytes(largest), weight_bytes(largest), moment_bytes(largest)
    parts = f"{size(raw)} raw weights, {size(whole - raw - moments)} averages, {size(moments)} moments of the optimizer"
    kept, left = (_several(largest.checkpoint.most_kept(largest, done=done)) for done in (False, True))
    text = f"{size(needed)} for the {kept} that each cell keeps, of up to {size(whole)} ({parts})"
    if largest.checkpoint.finished == "weights":
        text += f"; when it is done, {left} of {size(whole - moments)}"
    if snapshots := sum(snapshot_bytes(config) for config in configs):
        text += f"; {size(snapshots)} of snapshots (ema.profiles)"
    if needed > free:
        room += ", which is not enough: checkpoint.keep_last=1 and checkpoint.finished=weights keep less"
    return f"{text}; {room}."


def _several(number: int) -> str:
    return f"{number} checkpoint{'' if number == 1 else 's'}"


@dataclass(frozen=True, kw_only=True)
class Surplus:
    """What the policy keeps no longer of a cell's folder."""

    deleted: tuple[Path, ...]
    """Checkpoints, weights and what a killed process left of them."""
    reduced: tuple[Path, ...]
    """Checkpoints of which the weights alone stay."""

    @property
    def bytes(self) -> int:
        """Bytes of what is deleted."""
        return sum(path.stat().st_size for path in self.deleted)


def surplus(folder: Path, policy: CheckpointConfig, batch_size: int, *, done: bool) -> Surplus:
    """What the policy keeps no longer. No process trains the cell.

    Args:
        folder: the cell's.
        policy: the present one.
        batch_size: images of a step.
        done: the cell is recorded as done.
    """
    whole, weights, best = checkpoint_files(folder), weights_files(folder), read_best(folder)
    noted = best.step if best is not None and best.metric == policy.keep_best else None
    every = {**weights, **whole} if done else whole
    kept = policy.kept(every, batch_size, noted, done=done)
    others = sorted(every.keys() - kept, reverse=True)
    if others and not any(is_whole(every[step]) for step in sorted(kept, reverse=True)):
        # The only one that training could go on with, or that can be read, is among the others.
        kept |= set([step for step in others if is_whole(every[step])][:1])
    drafts = sorted(folder.glob(f"{CHECKPOINTS}{DRAFT}"))
    gone = [
        files[step] for files in (whole, weights) for step in files if step not in kept and (done or files is whole)
    ]
    alone = done and policy.finished == "weights"
    reduced = [path for step, path in whole.items() if alone and step in kept]
    return Surplus(deleted=(*gone, *drafts), reduced=tuple(reduced))


def size(number: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
