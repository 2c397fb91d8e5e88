"""Disk that a study's cells take, by the policy of their checkpoints."""

from collections.abc import Iterable
from pathlib import Path
from shutil import disk_usage

from lina_lab.config import TrialConfig
from lina_lab.study.cost import checkpoint_bytes, moment_bytes, snapshot_bytes, weight_bytes


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


def size(number: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
