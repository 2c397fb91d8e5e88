"""What happens beside the training step."""

import time
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from einops import rearrange
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from matplotlib.image import imsave
from torch import Generator, Tensor

from lina_lab.config import EmaConfig, SamplingConfig
from lina_lab.model import LINA
from lina_lab.seeds import derive


class ExponentialAverage(EMAWeightAveraging):
    """Lightning's EMA, with validation on the raw weights first and on the averaged ones second.

    Lightning's own callback validates the averaged weights only. Here they are swapped in when the second validation
    loader starts.
    """

    def __init__(self, config: EmaConfig) -> None:
        # The buffers are constants (positions): to average them would only add rounding.
        super().__init__(use_buffers=False, decay=config.decay, update_every_n_steps=config.every_n_steps)

    @property
    def state_key(self) -> str:
        """One for all subclasses: a checkpoint goes on under any strategy."""
        return "ExponentialAverage"

    def averaged(self) -> L.LightningModule:
        """The module with the averaged weights."""
        assert self._average_model is not None
        return cast(L.LightningModule, self._average_model.module)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the raw weights in place."""

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if dataloader_idx == 1 and batch_idx == 0:
            self._swap_models(pl_module)


class Stopwatch(Callback):
    """Seconds of training, with and without validation, over all the times that the trial was taken up."""

    def __init__(self) -> None:
        self.training = self.validating = 0.0
        self._since = self._validating_since = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validating_since = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validating += time.perf_counter() - self._validating_since

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.lap()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.lap()

    @property
    def so_far(self) -> float:
        """Seconds of training until now, without validation."""
        return self.training + time.perf_counter() - self._since - self.validating

    def lap(self) -> None:
        """Count what has passed since the last lap."""
        now = time.perf_counter()
        self.training, self._since = self.training + now - self._since, now

    def state_dict(self) -> dict[str, Any]:
        return {"training": self.training, "validating": self.validating}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.training, self.validating = state_dict["training"], state_dict["validating"]


class SampleGrid(Callback):
    """Draws a grid of generated images with the averaged weights when training has ended: a row for each class."""

    def __init__(self, config: SamplingConfig, path: Path, average: ExponentialAverage) -> None:
        self.config, self.path, self.average = config, path, average
        self.problem: str | None = None
        """Why there is no picture: that is reported, and never ends a trial that trained well."""

    # Lightning leaves `on_train_end` out where a checkpoint says that all is done. All ranks draw: sharded weights need
    # all of them, and none is to wait for another in a collective meanwhile.
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        try:
            latents = self._draw(self.average.averaged())
            if trainer.is_global_zero:
                save_grid(latents, self.config.images_per_class, self.path)
        except Exception as error:
            self.problem = f"no picture of samples: {type(error).__name__}: {error}"

    def _draw(self, pl_module: Any) -> Tensor:
        model: LINA = pl_module.model
        classes, columns = model.config.num_classes or 1, self.config.images_per_class
        conditional = model.config.num_classes is not None
        label = torch.arange(classes, device=next(model.parameters()).device).repeat_interleave(columns)
        model.eval()
        return model.generate(
            label=label if conditional else None,
            batch=None if conditional else len(label),
            steps=self.config.steps,
            flow_steps=self.config.flow_steps,
            guidance=self.config.guidance if conditional else 1.0,
            min_guidance=self.config.min_guidance if conditional else 1.0,
            generator=Generator().manual_seed(derive("samples")),
        )


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
