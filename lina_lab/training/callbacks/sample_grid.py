"""The grid of generated images that a trial leaves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from lightning.pytorch.callbacks import Callback
from PIL import Image, ImageDraw, ImageFont
from torch import Generator, Tensor

from lina_lab.config import TrialConfig
from lina_lab.data.modules.base import StepDataModule
from lina_lab.evaluation.decoding import decoder_of
from lina_lab.evaluation.sampling import FRAME
from lina_lab.model import LINA
from lina_lab.training.callbacks.ema import ExponentialAverage
from lina_lab.util.seeds import derive

CAPTIONS = 8
"""Held-out captions in the grid."""
LARGEST = 1600
"""Pixels of the picture's width, about."""
LINE = 20
"""Pixels of a line of text."""


class SampleGrid(Callback):
    """Draws a grid of generated images with the averaged weights when training has ended.

    A row for each class, or for each of the first held-out captions.
    """

    def __init__(self, config: TrialConfig, path: Path, average: ExponentialAverage) -> None:
        self.config, self.data, self.path, self.average = config.sampling, config.data, path, average
        self.problem: str | None = None
        """Why there is no picture: that is reported, and never ends a trial that trained well."""

    # Lightning leaves `on_train_end` out where a checkpoint says that all is done. All ranks draw: sharded weights need
    # all of them, and none is to wait for another in a collective meanwhile.
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        try:
            module: Any = self.average.averaged()
            data = trainer.datamodule  # type: ignore[attr-defined]
            images = self._look(self._draw(module.model, data))
            if trainer.is_global_zero:
                save_grid(images, self.config.images_per_class, self.path, self._titles(module.model, data))
        except Exception as error:
            self.problem = f"no picture of samples: {type(error).__name__}: {error}"

    def _look(self, latents: Tensor) -> Tensor:
        """Latents as they are, or decoded."""
        if self.config.vae is None:
            return latents
        assert self.data.path is not None
        pixels = decoder_of(self.config.vae, Path(self.data.path), latents.device)(latents)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1

    def _titles(self, model: LINA, data: StepDataModule) -> list[str]:
        """Of the rows: captions, where there are some."""
        return [] if model.config.text_dim is None else data.captions(self._rows(data))

    def _rows(self, data: StepDataModule) -> range:
        return range(min(CAPTIONS, len(data.val_set)))

    def _draw(self, model: LINA, data: StepDataModule) -> Tensor:
        model.eval()
        condition = self._condition(model, data)
        rows = len(next(iter(condition.values()))) if condition else 1
        repeated = {name: value.repeat_interleave(self.config.images_per_class, 0) for name, value in condition.items()}
        return model.generate(
            **repeated,
            batch=None if condition else rows * self.config.images_per_class,
            steps=self.config.ar_steps,
            flow_steps=self.config.ode_steps,
            guidance=self.config.guidance_scale if condition else 1.0,
            min_guidance=self.config.guidance_scale_start if condition else 1.0,
            generator=Generator().manual_seed(derive("samples")),
        )

    def _condition(self, model: LINA, data: StepDataModule) -> dict[str, Tensor]:
        """Arguments of the model, a row each."""
        device = next(model.parameters()).device
        if model.config.num_classes is not None:
            return {"label": torch.arange(model.config.num_classes, device=device)}
        if model.config.text_dim is not None:
            return data.examples(self._rows(data), device)
        return {}


def save_grid(latents: Tensor, columns: int, path: Path, titles: Sequence[str] = (), scale: int = 6) -> None:
    """Write images [B, C, H, W] in -1..1 as one PNG, row by row; three channels in colour, others' mean in grey.

    Args:
        latents: the images; their number is a multiple of `columns`.
        columns: images side by side.
        path: the PNG file.
        titles: what to write above the rows; none: nothing.
        scale: pixels of the picture for each of an image's, at most: the picture is no larger than it needs to be.
    """
    images = latents.float().clamp(-1, 1).cpu()
    # Grey is dark where the number is high, as digits are written.
    shades = (images + 1) / 2 if images.shape[1] == 3 else (1 - images.mean(1, keepdim=True)).expand(-1, 3, -1, -1) / 2
    scale = max(1, min(scale, LARGEST // ((shades.shape[-1] + 1) * columns)))
    large = shades.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    framed = torch.nn.functional.pad(large, (1, 1, 1, 1), value=FRAME / 255)
    rows = rearrange(framed, "(r c) k h w -> r h (c w) k", c=columns)
    strips = [_titled(strip, titles[row] if titles else None) for row, strip in enumerate((rows * 255).byte().numpy())]
    Image.fromarray(np.concatenate(strips)).save(path)


def _titled(strip: "npt.NDArray[np.uint8]", title: str | None) -> "npt.NDArray[np.uint8]":
    """A row of images [H, W, 3] with a line of text above it."""
    if title is None:
        return strip
    line = Image.new("RGB", (strip.shape[1], LINE), "white")
    ImageDraw.Draw(line).text((2, 1), title, fill="black", font=ImageFont.load_default(LINE - 6))
    return np.concatenate([np.asarray(line), strip])
