"""What happens beside the training step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from einops import rearrange
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from matplotlib.image import imsave
from torch import Generator, Tensor

from lina_lab.config import EmaConfig, SamplingConfig
from lina_lab.model import LINA
from lina_lab.seeds import derive

Report = Callable[[int, float], None]
"""Called with images seen and the training loss."""


class DivergedError(RuntimeError):
    """The training loss is not finite."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"the training loss is {loss} at step {step}")
        self.step = step


class ExponentialAverage(EMAWeightAveraging):
    """Lightning's EMA, with validation on the raw weights first and on the averaged ones second.

    Lightning's own callback validates the averaged weights only. Here they are swapped in when the second validation
    loader starts.
    """

    def __init__(self, config: EmaConfig) -> None:
        # The buffers are constants (positions): to average them would only add rounding.
        super().__init__(use_buffers=False, decay=config.decay, update_every_n_steps=config.every_n_steps)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the raw weights in place."""

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if dataloader_idx == 1 and batch_idx == 0:
            self._swap_models(pl_module)


class DivergenceStop(Callback):
    """Ends a trial whose training loss is not finite.

    Raises:
        DivergedError: behind the step whose loss it was.
    """

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"]
        if not torch.isfinite(loss):
            raise DivergedError(trainer.global_step, float(loss))


class ProgressReport(Callback):
    """Tells whoever waits how far the trial is."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.report(pl_module.images_seen, float(outputs["loss"]))


class SampleGrid(Callback):
    """Draws a grid of generated images with the averaged weights when training ends: a row for each class.

    Stands behind `ExponentialAverage` in the list of callbacks, which leaves the averaged weights in the model.
    """

    def __init__(self, config: SamplingConfig, path: Path) -> None:
        self.config, self.path = config, path

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        model: LINA = pl_module.model
        classes, columns = model.config.num_classes or 1, self.config.images_per_class
        conditional = model.config.num_classes is not None
        label = torch.arange(classes, device=pl_module.device).repeat_interleave(columns)
        model.eval()
        latents = model.generate(
            label=label if conditional else None,
            batch=None if conditional else len(label),
            steps=self.config.steps,
            flow_steps=self.config.flow_steps,
            guidance=self.config.guidance if conditional else 1.0,
            min_guidance=self.config.min_guidance if conditional else 1.0,
            generator=Generator().manual_seed(derive("samples")),
        )
        save_grid(latents, columns, self.path)


def save_grid(latents: Tensor, columns: int, path: Path, scale: int = 6) -> None:
    """Write images [B, C, H, W] in -1..1 as one PNG, row by row; the mean of the channels in grey.

    Args:
        latents: the images; their number is a multiple of `columns`.
        columns: images side by side.
        path: the PNG file.
        scale: pixels of the picture for each of an image's.
    """
    grey = latents.float().mean(1).clamp(-1, 1).cpu()
    framed = torch.nn.functional.pad(grey, (1, 1, 1, 1), value=-1.0)
    grid = rearrange(framed, "(r c) h w -> (r h) (c w)", c=columns)
    large = grid.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    imsave(path, large.numpy(), cmap="gray_r", vmin=-1, vmax=1)
