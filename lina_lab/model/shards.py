"""Checkpoints whose tensors lie in shards, in the format of `torch.distributed.checkpoint`.

The file of such a checkpoint holds all of it but the shards: an empty tensor stands for each one that is sharded, and
`shards` holds the hashes of their files.
"""

import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load

from lina_lab.records.checkpoints import shards_folder
from lina_lab.records.weights import hash_of_file
from lina_lab.util.compat.torch_checkpoint import ShardReader
from lina_lab.util.errors import first_line

HASHES = "shards"
"""Entry of a checkpoint with shards: name of each of their files -> SHA-256."""
Make = Callable[[Tensor], Tensor]


class ShardedCheckpoint(Mapping[str, Any]):
    """A checkpoint with shards, of which each part is read when it is used.

    Args:
        saved: what its file holds.
        path: the file.
        make: makes, for an empty tensor that stands for a sharded one, the tensor to read it into.

    Raises:
        ValueError: on use of a part: its shards cannot be read.
    """

    def __init__(self, saved: Mapping[str, Any], path: Path, make: Make) -> None:
        self.hashes: Mapping[str, str] = saved[HASHES]
        self.folder, self._make = shards_folder(path), make
        self._saved = {part: value for part, value in saved.items() if part != HASHES}

    def __getitem__(self, part: str) -> Any:
        found: dict[str, Tensor] = {}

        def made(name: str, tensor: Tensor) -> Tensor:
            if not tensor.is_meta:
                return tensor
            found[name] = self._make(tensor)
            return found[name]

        value = map_tensors(self._saved[part], made, part)
        if found:
            self._read(found)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._saved)

    def __len__(self) -> int:
        return len(self._saved)

    def _read(self, tensors: dict[str, Tensor]) -> None:
        try:
            with warnings.catch_warnings():
                # Each process reads what it needs by itself.
                warnings.filterwarnings("ignore", "torch.distributed is disabled.*")
                load(tensors, storage_reader=ShardReader(self.folder), no_dist=True)
        except (CheckpointException, OSError, pickle.UnpicklingError) as error:
            cause = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
            raise ValueError(f"{self.folder} cannot be read: {first_line(cause)}") from error


def whole(tensor: Tensor) -> Tensor:
    """Memory for all of a sharded tensor."""
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def open_checkpoint(path: Path, make: Make = whole) -> Mapping[str, Any]:
    """A checkpoint, with or without shards; its tensors are read from the disk when they are used.

    Args:
        path: its file.
        make: see `ShardedCheckpoint`.
    """
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return ShardedCheckpoint(saved, path, make) if HASHES in saved else saved


def damaged(checkpoint: Mapping[str, Any]) -> str | None:
    """The name of a shard that is missing or not what was written; None: there is none."""
    if not isinstance(checkpoint, ShardedCheckpoint):
        return None
    for name, digest in checkpoint.hashes.items():
        file = checkpoint.folder / name
        if not file.is_file() or hash_of_file(file) != digest:
            return f"{checkpoint.folder.name}/{name}"
    return None


def map_tensors(state: Any, change: Callable[[str, Tensor], Any], name: str) -> Any:
    """A copy of nested dictionaries and lists with other values in place of its tensors.

    Args:
        state: what holds the tensors.
        change: makes the other value from the name and the tensor.
        name: of `state`; the names of what it holds are joined to it by "/".
    """
    if isinstance(state, Tensor):
        return change(name, state)
    if isinstance(state, dict):
        return {key: map_tensors(value, change, f"{name}/{key}") for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(map_tensors(value, change, f"{name}/{number}") for number, value in enumerate(state))
    return state
