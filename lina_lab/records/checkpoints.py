"""The checkpoints in a cell's folder: their names, their hashes, and which of them was the best.

Imports no torch: a plan lists them, and `lina prune` deletes them.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lina_lab.records.files import BEST_FILE, CHECKPOINTS
from lina_lab.util.files import read_json, sha256, write_atomically

WEIGHTS = ".weights.ckpt"
"""Ending of a file of weights alone."""
DIGEST = ".sha256"
"""Ending of the file that holds a checkpoint's hash."""
SHARDS = ".shards"
"""Ending of the folder of a checkpoint's shards."""


@dataclass(frozen=True)
class Best:
    """The best validation so far."""

    metric: str
    value: float
    step: int
    """Optimizer steps taken."""


def checkpoint_file(folder: Path, step: int) -> Path:
    """The checkpoint after a step."""
    return folder / f"step-{step:08d}.ckpt"


def checkpoint_files(folder: Path) -> dict[int, Path]:
    """Optimizer steps taken -> the checkpoint, whole or not."""
    return _by_step(folder, ".ckpt")


def weights_file(folder: Path, step: int) -> Path:
    """The weights of a checkpoint, without the optimizer's state; what a finished cell may keep in its place."""
    return folder / f"step-{step:08d}{WEIGHTS}"


def weights_files(folder: Path) -> dict[int, Path]:
    """Optimizer steps taken -> the file of the weights alone, whole or not."""
    return _by_step(folder, WEIGHTS)


def _by_step(folder: Path, ending: str) -> dict[int, Path]:
    """In the order of the steps."""
    form = re.compile(rf"step-(\d+){re.escape(ending)}")
    found = {path: form.fullmatch(path.name) for path in folder.glob(f"{CHECKPOINTS}{ending}")}
    return dict(sorted((int(name[1]), path) for path, name in found.items() if name is not None))


def digest_file(checkpoint: Path) -> Path:
    """The file that holds a checkpoint's hash."""
    return checkpoint.with_name(checkpoint.name + DIGEST)


def shards_folder(checkpoint: Path) -> Path:
    """The folder of a checkpoint's shards, if the ranks wrote them (`checkpoint.distributed`)."""
    return checkpoint.with_name(checkpoint.name + SHARDS)


def write_hashes(checkpoint: Path, digest: str, shards: Mapping[str, str]) -> None:
    """Write the hash of a checkpoint's file beside it, and those of its shards, as `sha256sum` does.

    Args:
        checkpoint: the file; it need not be there yet.
        digest: its SHA-256.
        shards: name in the folder of shards -> SHA-256.
    """
    folder = shards_folder(checkpoint).name
    lines = [digest, *(f"{value}  {folder}/{name}" for name, value in sorted(shards.items()))]
    write_atomically(digest_file(checkpoint), "".join(f"{line}\n" for line in lines))


def shard_hashes(checkpoint: Path) -> dict[Path, str]:
    """The shards of a checkpoint, whether they are there or not, and the hashes that were written of them."""
    return {checkpoint.parent / line[1]: line[0] for line in _written(checkpoint) if len(line) == 2}


def written_hash(checkpoint: Path) -> str | None:
    """The hash that was written beside a checkpoint; None: there is none."""
    return next(iter(_own_hashes(checkpoint)), None)


def known_as(checkpoint: Path) -> str | None:
    """The hash by which trials know weights: of weights alone, that of the checkpoint that they were taken from; None:
    none was written."""
    return next(reversed(_own_hashes(checkpoint)), None)


def _own_hashes(checkpoint: Path) -> list[str]:
    return [line[0] for line in _written(checkpoint) if len(line) == 1]


def _written(checkpoint: Path) -> list[list[str]]:
    """The lines beside a checkpoint: a hash, and of a shard its path."""
    try:
        return [line.split() for line in digest_file(checkpoint).read_text().splitlines()]
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError):
        return []


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint holds what was written; all of it is read."""
    return written_hash(checkpoint) == sha256(checkpoint) and all(
        shard.is_file() and sha256(shard) == digest for shard, digest in shard_hashes(checkpoint).items()
    )


def delete(checkpoint: Path) -> None:
    """Remove a checkpoint, its hash and its shards; or a file or a folder that a killed process left of one."""
    # The file first: without it the others are no checkpoint.
    for path in (checkpoint, digest_file(checkpoint), shards_folder(checkpoint)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def bytes_of(checkpoint: Path) -> int:
    """The size of a checkpoint's file and of its shards."""
    files = (checkpoint, *shards_folder(checkpoint).glob("*"))
    return sum(path.stat().st_size for path in files)


def write_best(folder: Path, best: Best) -> None:
    """Note the best validation for readers that read no checkpoint."""
    write_atomically(folder / BEST_FILE, json.dumps(asdict(best)) + "\n")


def read_best(folder: Path) -> Best | None:
    """The best validation that is noted; None: there is none that can be read."""
    try:
        return Best(**read_json(folder / BEST_FILE))
    except (FileNotFoundError, ValueError, TypeError):
        return None
