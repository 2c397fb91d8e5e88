"""The LightningModule around the model: loss, optimizer, logged numbers. Thin."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from lina_lab.config import TrialConfig, to_dict
from lina_lab.config.optimizers import OPTIMIZERS
from lina_lab.data.batch import Batch
from lina_lab.model import LINA, LossInputs, initialize, sample_step_inputs
from lina_lab.training.optimizer_state import by_group, by_place
from lina_lab.training.validation import frozen_loss_inputs
from lina_lab.util.partition import held_out, microbatch

LAYOUT = 2
"""Of checkpoints: 2 has the optimizer's state by the parameters' places in the module."""
VALIDATION_WEIGHTS = ("raw", "ema")
"""Which weights each of the two validation loaders is run with."""


class LinaModule(L.LightningModule):
    """Trains one LINA.

    What is drawn for an image depends on (seed, step, its place in the batch of all ranks) alone: it is common to all
    variants and sizes, and the same whatever number of ranks shares the batch.
    """

    def __init__(self, config: TrialConfig) -> None:
        super().__init__()
        self.save_hyperparameters(to_dict(config))
        self.config = config
        self.model = LINA(config.model)
        initialize(self.model, config.seed)
        self.frozen: list[tuple[LossInputs, int]] = []
        """Draws of this rank's images of each validation batch, and how many of them count."""

    @property
    def images_seen(self) -> int:
        """Images that the weights were trained on so far."""
        return self.global_step * self.config.data.batch_size

    def setup(self, stage: str) -> None:
        self.frozen = []
        for draws in frozen_loss_inputs(self.config):
            places, counted = held_out(len(draws.drop), rank=self.global_rank, world_size=self.trainer.world_size)
            self.frozen.append((draws.part(places), counted))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        latents, condition = batch
        accumulate_grad_batches = self.trainer.accumulate_grad_batches
        mine = microbatch(
            self.config.data.batch_size,
            rank=self.global_rank,
            world_size=self.trainer.world_size,
            accumulation_step=batch_idx % accumulate_grad_batches,
            accumulate_grad_batches=accumulate_grad_batches,
        )
        draws = sample_step_inputs(self.config.model, seed=self.config.seed, step=self.global_step, images=mine)
        return self.model.loss_from_inputs(latents, draws, **condition)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        latents, condition = batch
        draws, counted = self.frozen[batch_idx]
        loss = self.model.loss_from_inputs(latents, draws, **condition)
        name = f"val/loss_{VALIDATION_WEIGHTS[dataloader_idx]}"
        self.log(name, loss, batch_size=counted, add_dataloader_idx=False, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        if self.config.data.on_error == "skip":
            skipped = self.trainer.datamodule.gather_damaged()  # type: ignore[attr-defined]
            self.log_over_images({"data/skipped": float(skipped)}, self.images_seen)
        self.log_over_images({}, self.images_seen)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        config, warmup = self.config.optimizer, self.config.optimizer.warmup_images / self.config.data.batch_size
        optimizer = OPTIMIZERS[config.name].load()(self._groups(), config)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(warmup, 1)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["layout"] = LAYOUT
        if self.device_mesh is None:
            checkpoint["optimizer_states"] = [by_place(s, self._groups(), self) for s in checkpoint["optimizer_states"]]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take what is in a checkpoint apart for this module.

        Raises:
            ValueError: another version wrote it.
        """
        if checkpoint.get("layout") != LAYOUT:
            raise ValueError("the checkpoint was written by another version of lina_lab: move the cell's folder away")
        if self.device_mesh is None:
            checkpoint["optimizer_states"] = [by_group(s, self._groups(), self) for s in checkpoint["optimizer_states"]]

    def log_over_images(self, metrics: dict[str, float], images: int) -> None:
        """Log metrics that are the same on all ranks."""
        # Lightning takes a metric of this name as the loggers' step: the trackers' x axis is images seen.
        self.log_dict({**metrics, "step": torch.tensor(images, dtype=torch.float64)})

    def _groups(self) -> list[dict[str, Any]]:
        return parameter_groups(self.model, self.config.optimizer.weight_decay)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters: norms without weight decay, all others with it."""
    norms = {id(p) for m in model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters(recurse=False)}
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) not in norms], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) in norms], "weight_decay": 0.0},
    ]
