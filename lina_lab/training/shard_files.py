"""How all ranks write the sharded tensors of a checkpoint, each its own shards (`checkpoint.distributed`)."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from lina_lab.model.shards import map_tensors
from lina_lab.records.checkpoints import delete, shards_folder
from lina_lab.util.compat.torch_checkpoint import ShardWriter
from lina_lab.util.errors import first_line
from lina_lab.util.files import DRAFT


def split(checkpoint: dict[str, Any]) -> tuple[dict[str, Any], dict[str, DTensor]]:
    """A checkpoint with empty tensors in place of the sharded ones, and those, by their names in it."""
    sharded: dict[str, DTensor] = {}

    def taken(name: str, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        sharded[name] = tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    return {part: map_tensors(value, taken, part) for part, value in checkpoint.items()}, sharded


def write_shards(tensors: dict[str, DTensor], checkpoint: Path, group: distributed.ProcessGroup) -> dict[str, str]:
    """Write the shards of a checkpoint, before its file. All ranks call it together.

    An older checkpoint of this name is removed first; the trial has resumed from an even older one.

    Args:
        tensors: by their names in the checkpoint.
        checkpoint: its file.
        group: all ranks, with a backend for the CPU, and used by nothing else meanwhile.

    Returns:
        Name of each file of shards -> SHA-256, from all ranks.

    Raises:
        OSError: on all ranks: one of them cannot write its shards.
    """
    folder, first = shards_folder(checkpoint), distributed.get_rank(group) == 0
    draft = folder.with_name(folder.name + DRAFT)
    if first:
        delete(draft)
    distributed.barrier(group)
    writer = ShardWriter(draft)
    try:
        save(tensors, storage_writer=writer, process_group=group)
    except CheckpointException as error:
        if first:
            shutil.rmtree(draft, ignore_errors=True)
        rank, (cause, _) = min(error.failures.items(), key=lambda failure: failure[0])
        sentence = f"rank {rank} cannot write its shards of {checkpoint.name}: "
        if isinstance(cause, OSError) and cause.errno is not None:
            raise OSError(cause.errno, sentence + os.strerror(cause.errno)) from error
        raise OSError(sentence + first_line(cause)) from error
    parts: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(parts, writer.hashes, group=group)
    if first:
        if folder.exists():
            delete(checkpoint)
        draft.rename(folder)
    return {name: digest for part in parts for name, digest in part.items()}
