"""Captioned shapes as unlimited training data: no image is seen twice, and each follows from the seed alone."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lina_lab.config import TrialConfig
from lina_lab.data.batch import Batch
from lina_lab.data.modules.base import StepDataModule
from lina_lab.data.pixels import from_pixels
from lina_lab.data.scenes import Scene, render, scene
from lina_lab.util.seeds import derive, seeded

PASS = 10_000
"""Images of a pass, and of the set where a finite one is needed, as for FID's reference."""
HELD_OUT = derive("shapes", "held out")
"""Seed of the held-out images, the same for every trial."""


class ShapeImages(Dataset[Batch]):
    """Images in -1..1, float32 [B, 3, resolution, resolution], with their captions; takes a tensor of indices.

    Args:
        seed: of the set.
        resolution: pixels of a side.
        size: length of the set; indices may be larger.
        long: share of the images that come with their long caption.
        rng_version: one of `seeds.RNG_VERSIONS`.
    """

    def __init__(self, seed: int, resolution: int, size: int, long: float = 0.0, rng_version: int = 1) -> None:
        self.seed, self.resolution, self.size, self.long = seed, resolution, size, long
        self.rng_version = rng_version

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, indices: Tensor) -> Batch:
        scenes = [self.scene(index) for index in indices.tolist()]
        pixels = np.stack([render(each, self.resolution) for each in scenes])
        captions = [self._caption(each, index) for each, index in zip(scenes, indices.tolist(), strict=True)]
        return from_pixels(pixels), {"captions": captions}

    def scene(self, index: int) -> Scene:
        """The scene of an image."""
        return scene(self.seed, index)

    def _caption(self, made: Scene, index: int) -> str:
        if not self.long:
            return made.caption
        generator = seeded(self.rng_version, self.seed, "long", index)
        return made.long_caption if float(torch.rand((), generator=generator)) < self.long else made.caption


class ShapesDataModule(StepDataModule):
    """Data for `data.name=shapes`: images of the model's size, in the order of their indices."""

    def __init__(self, config: TrialConfig) -> None:
        resolution = config.model.latent_size[0]
        long, rng_version = config.data.long_captions, config.trainer.rng_version
        train = ShapeImages(derive("shapes", config.seed), resolution, PASS, long, rng_version)
        val = ShapeImages(HELD_OUT, resolution, config.data.val_images)
        super().__init__(config, train, PASS, val, order=lambda _: torch.arange(PASS), numbered=True)
