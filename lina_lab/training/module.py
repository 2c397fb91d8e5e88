"""The LightningModule around the model: loss, optimizer, logged numbers. Thin."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Generator, Tensor, nn

from lina_lab.config import TrialConfig, to_dict
from lina_lab.model import LINA, initialize
from lina_lab.seeds import derive
from lina_lab.training.validation import frozen_draws

VALIDATION_WEIGHTS = ("raw", "ema")
"""Which weights each of the two validation loaders is run with."""


class LinaModule(L.LightningModule):
    """Trains one LINA. Each step's draws depend on (seed, step, rank) alone: common to all variants and sizes."""

    def __init__(self, config: TrialConfig) -> None:
        super().__init__()
        self.save_hyperparameters(to_dict(config))
        self.config = config
        self.model = LINA(config.model)
        initialize(self.model, config.seed)
        self.frozen = frozen_draws(config)

    @property
    def images_seen(self) -> int:
        """Images that the weights were trained on so far."""
        return self.global_step * self.config.data.batch_size

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        latents, label = batch
        generator = Generator().manual_seed(derive(self.config.seed, "step", self.global_step, self.global_rank))
        loss = self.model.loss(latents, label=self._condition(label), generator=generator)
        self._log_over_images({"train/loss": loss.detach()})
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        latents, label = batch
        loss = self.model.loss_given(latents, self.frozen[batch_idx], label=self._condition(label))
        name = f"val/loss_{VALIDATION_WEIGHTS[dataloader_idx]}"
        self.log(name, loss, batch_size=len(latents), add_dataloader_idx=False, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        self._log_over_images({})

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        config, warmup = self.config.optimizer, self.config.optimizer.warmup_images / self.config.data.batch_size
        groups = parameter_groups(self.model, config.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(warmup, 1)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _condition(self, label: Tensor) -> Tensor | None:
        return None if self.config.model.num_classes is None else label

    def _log_over_images(self, metrics: dict[str, Tensor]) -> None:
        # Lightning takes a metric of this name as the loggers' step: the trackers' x axis is images seen.
        self.log_dict({**metrics, "step": torch.tensor(self.images_seen, dtype=torch.float64)})


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters: norms without weight decay, all others with it."""
    norms = {id(p) for m in model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters(recurse=False)}
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) not in norms], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) in norms], "weight_decay": 0.0},
    ]
