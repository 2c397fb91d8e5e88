"""The grid of generated images that a trial leaves."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import wrap

import lightning as L
import matplotlib
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image, ImageDraw, ImageFont
from torch import Generator, Tensor

from lina_lab.config import TrialConfig
from lina_lab.config.datasets import DATA_SETS
from lina_lab.data.modules.base import StepDataModule
from lina_lab.data.pixels import Pixels, from_pixels
from lina_lab.evaluation.decoding import decoder_of
from lina_lab.evaluation.grid import tile
from lina_lab.evaluation.sampling import Condition, generate
from lina_lab.model import LINA
from lina_lab.records.files import PICTURE_FILE, SAMPLES_FILE
from lina_lab.records.samples import SampleSheet, padded
from lina_lab.training.callbacks.ema import ExponentialAverage
from lina_lab.util.seeds import derive

CAPTIONS = 8
"""Held-out captions in the grid."""
SHEET_ROWS = 16
"""Most classes in the file of numbers: a thousand classes would make it larger than the checkpoints."""
HELD_OUT_READ = 2048
"""Held-out images that are searched for those of a class."""
MAX_WIDTH = 1600
"""Pixels of the picture's width, about."""
LINE = 20
"""Pixels of a line of text."""
CHARACTER = 9
"""Pixels of a character's width, about."""
FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
"""Has the letters of most languages; Pillow's own font has those of English."""


class SampleGrid(Callback):
    """Generates a grid of images with the averaged weights when training has ended.

    A row for each class, or for each of the first held-out captions. It is left as a picture, and as numbers beside
    held-out images.

    Args:
        config: the trial.
        folder: the cell's folder.
        average: holds the averaged weights.
    """

    def __init__(self, config: TrialConfig, folder: Path, average: ExponentialAverage) -> None:
        self.config, self.data, self.folder, self.average = config.sampling, config.data, folder, average
        self.problem: str | None = None
        """Why there is no picture. It is reported, and never ends a trial that trained well."""

    # Lightning leaves `on_train_end` out where a checkpoint says that all is done. All ranks generate: sharded weights
    # need all of them, and none may wait for another in a collective meanwhile.
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        try:
            model = self.average.averaged().model
            data = trainer.datamodule  # type: ignore[attr-defined]
            rows = range(min(CAPTIONS, len(data.val_set)))
            images = self._decoded(self._generate(model, data, rows))
            if trainer.is_global_zero:
                titles = [] if model.config.text_dim is None else data.captions(rows)
                attribution = DATA_SETS[self.data.name].attribution
                notice = str(attribution) if titles and attribution is not None and attribution.notice else None
                columns = self.config.images_per_class
                save_grid(images, columns, self.folder / PICTURE_FILE, titles, notice=notice)
                self._sheet(images, model, data, titles).write(self.folder / SAMPLES_FILE)
        except Exception as error:
            self.problem = f"no picture of samples: {type(error).__name__}: {error}"

    def _decoded(self, latents: Tensor) -> Tensor:
        """Latents that are pixels as they are, others decoded."""
        if self.config.vae is None:
            return latents
        assert self.data.path is not None
        return from_pixels(decoder_of(self.config.vae, Path(self.data.path), latents.device)(latents))

    def _sheet(self, images: Tensor, model: LINA, data: StepDataModule, captions: Sequence[str]) -> SampleSheet:
        """The first rows of the generated images [n, C, H, W], and held-out ones of the same classes or captions."""
        columns, classes = self.config.images_per_class, model.config.num_classes
        rows = min(len(images) // columns, SHEET_ROWS)
        shown = (_shades(images[: rows * columns]) * 255).byte().permute(0, 2, 3, 1).numpy()
        generated: Pixels = shown.reshape(rows, columns, *shown.shape[1:])
        if classes is not None:
            titles, found = [str(row) for row in range(rows)], _of_classes(data, rows, columns)
        elif model.config.text_dim is not None:
            titles, found = list(captions) or [""] * rows, [[row] for row in range(rows)]
        else:
            titles, found = [""], [list(range(min(columns, len(data.val_set))))]
        real = []
        for row, indices in zip(generated, found, strict=True):
            own: Sequence[Pixels] = []
            if indices:
                latents = data.val_set[torch.tensor(indices)][0].to(images.device)
                own = list((_shades(self._decoded(latents)) * 255).byte().permute(0, 2, 3, 1).numpy())
            real.append(padded(own, row))
        counts = np.array([len(indices) for indices in found], dtype=np.int64)
        return SampleSheet(images=generated, real=np.stack(real), real_counts=counts, titles=tuple(titles))

    def _generate(self, model: LINA, data: StepDataModule, captions: range) -> Tensor:
        model.eval()
        sampling, columns, device = self.config, self.config.images_per_class, next(model.parameters()).device
        condition: Condition = {}
        if model.config.num_classes is not None:
            condition = {"label": torch.arange(model.config.num_classes, device=device)}
        elif model.config.text_dim is not None:
            condition = data.held_out_condition(captions, device)
        if not model.config.guidable:
            sampling = replace(sampling, guidance_scale=1.0, guidance_scale_start=1.0)
        repeated = {name: value.repeat_interleave(columns, 0) for name, value in condition.items()}
        return generate(model, sampling, repeated, Generator().manual_seed(derive("samples")), columns)


def save_grid(
    images: Tensor, columns: int, path: Path, titles: Sequence[str] = (), scale: int = 6, notice: str | None = None
) -> None:
    """Write images [n, C, H, W] in -1..1 as one PNG, row by row.

    Three channels are shown in color; others by their mean, in gray and dark where it is high, as digits are written.

    Args:
        images: their number is a multiple of `columns`.
        columns: images side by side.
        path: the PNG file.
        titles: text above the rows; none: no text.
        scale: pixels of the picture for each pixel of an image, at most; fewer where the picture would be too wide.
        notice: lines of text below all rows; None: none.
    """
    shades = _shades(images).expand(-1, 3, -1, -1)
    scale = max(1, min(scale, MAX_WIDTH // ((shades.shape[-1] + 1) * columns)))
    large = shades.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    pixels: Pixels = (large * 255).byte().permute(0, 2, 3, 1).numpy()
    rows = [pixels[start : start + columns] for start in range(0, len(pixels), columns)]
    strips = [tile(row, columns, margin=(1, 1)) for row in rows]
    titled = [_titled(strip, title) for strip, title in zip(strips, titles, strict=True)] if titles else strips
    width = strips[0].shape[1]
    lines = [] if notice is None else wrap(notice, max(20, width // CHARACTER), break_on_hyphens=False)
    below = [_text(line, width) for line in lines]
    Image.fromarray(np.concatenate([*titled, *below])).save(path)


def _shades(images: Tensor) -> Tensor:
    """Images [n, C, H, W] in -1..1 as shades in 0..1: of three channels colors, of others one gray, dark where high."""
    shown = images.float().clamp(-1, 1).cpu()
    return (shown + 1) / 2 if shown.shape[1] == 3 else (1 - shown.mean(1, keepdim=True)) / 2


def _of_classes(data: StepDataModule, classes: int, columns: int) -> list[list[int]]:
    """Indices of the first held-out images of each class, at most `columns` of a class."""
    found: list[list[int]] = [[] for _ in range(classes)]
    most, at_once = min(len(data.val_set), HELD_OUT_READ), data.config.data.val_batch_size
    for start in range(0, most, at_once):
        indices = range(start, min(start + at_once, most))
        labels = data.val_set[torch.tensor(indices)][1]["label"].tolist()
        for index, label in zip(indices, labels, strict=True):
            if label < classes and len(found[label]) < columns:
                found[label].append(index)
        if all(len(own) == columns for own in found):
            break
    return found


def _titled(strip: Pixels, title: str) -> Pixels:
    """A row of images [H, W, 3] with a line of text above it."""
    return np.concatenate([_text(title, strip.shape[1]), strip])


def _text(text: str, width: int) -> Pixels:
    """A line of text [LINE, width, 3], black on white."""
    line = Image.new("RGB", (width, LINE), "white")
    ImageDraw.Draw(line).text((2, 1), text, fill="black", font=ImageFont.truetype(FONT, LINE - 6))
    return np.asarray(line)
