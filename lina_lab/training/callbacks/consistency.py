"""Checks that the ranks of one model are alike: first in code, configuration and checkpoint, then in weights."""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy

from lina_lab.config import TrialConfig
from lina_lab.data.pretrained import weights_sha256
from lina_lab.util.code_versions import code_versions


class ConsistencyCheck(Callback):
    """Compares the ranks before they train: they must have the same code, configuration and checkpoint.

    Args:
        config: the trial.
        checkpoint: the checkpoint that this rank resumes from.

    Raises:
        ValueError: on all ranks; the message names the host that differs and in what.
    """

    def __init__(self, config: TrialConfig, checkpoint: Path | None) -> None:
        self.config, self.checkpoint = config, checkpoint

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size == 1:
            return
        mine = {
            **code_versions(),
            "configuration": self.config.config_hash(),
            "checkpoint": "none" if self.checkpoint is None else self.checkpoint.name,
            "data": str(trainer.datamodule.data_sha256),  # type: ignore[attr-defined]
            "text encoder": str(trainer.datamodule.encoder_sha256),  # type: ignore[attr-defined]
        }
        views: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(views, (socket.gethostname(), mine))
        sentence = disagreement(views)
        if sentence is not None:
            raise ValueError(sentence)


class WeightSyncCheck(Callback):
    """Compares, after each epoch and before a checkpoint, the weights of ranks that each have a copy of them.

    Raises:
        RuntimeError: on all ranks, when the weights of one differ from those of the first by a single bit: its hardware
            or its communication library cannot be trusted.
    """

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not isinstance(trainer.strategy, DDPStrategy):
            return
        views: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(views, (socket.gethostname(), weights_sha256(pl_module)))
        for rank, (host, found) in enumerate(views):
            if found != views[0][1]:
                raise RuntimeError(
                    f"rank {rank} on {host} has other weights than rank 0 after {trainer.global_step} steps"
                )


def disagreement(views: Sequence[tuple[str, dict[str, str]]]) -> str | None:
    """A sentence that says in what a host differs from the first one; None if none does.

    Args:
        views: for each rank its host and what must be equal.
    """
    first_host, first = views[0]
    for host, view in views[1:]:
        differing = [name for name in sorted(first.keys() | view.keys()) if first.get(name) != view.get(name)]
        if differing:
            parts = [f"{name} {view.get(name, 'absent')} against {first.get(name, 'absent')}" for name in differing]
            return f"{host} differs from {first_host}: {', '.join(parts)}"
    return None
