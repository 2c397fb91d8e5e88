"""Checkpoints with shards, made from whole ones in one process."""

from pathlib import Path

import torch
from torch import Tensor
from torch.distributed import checkpoint as dcp

from lina_lab.model.shards import map_tensors
from lina_lab.records.checkpoints import shards_folder
from lina_lab.util.compat.torch_checkpoint import ShardWriter
from tests.training.old_checkpoints import load, write


def shard(path: Path) -> None:
    """Move the weights of a checkpoint, and the state of its optimizer, into shards."""
    tensors = dict[str, Tensor]()

    def taken(name: str, tensor: Tensor) -> Tensor:
        tensors[name] = tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    saved = load(path)
    for part in ("state_dict", "current_model_state", "optimizer_states"):
        saved[part] = map_tensors(saved[part], taken, part)
    writer = ShardWriter(shards_folder(path))
    dcp.save(tensors, storage_writer=writer, no_dist=True)  # type: ignore[arg-type]
    write(path, {**saved, "shards": writer.hashes})
