"""Captioned shapes as training data without end: no picture is seen twice, and each follows from the seed alone."""

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from lina_lab.config import TrialConfig
from lina_lab.data.batch import Batch
from lina_lab.data.modules.base import StepDataModule
from lina_lab.data.scenes import Scene, draw, scene
from lina_lab.util.seeds import derive

PASS = 10_000
"""Pictures that stand for the whole where a set of finite size is needed, such as a reference of pixels."""
HELD_OUT = derive("shapes", "held out")
"""Seed of the held-out pictures, the same for every trial."""


class ShapeImages(Dataset[Batch]):
    """Pictures -1..1, float32 [B, 3, resolution, resolution], with their captions; takes a tensor of numbers.

    Args:
        seed: of the set.
        resolution: pixels of a side.
        size: how many there are; numbers may be larger.
        long: share of them with their long caption.
    """

    def __init__(self, seed: int, resolution: int, size: int, long: float = 0.0) -> None:
        self.seed, self.resolution, self.size, self.long = seed, resolution, size, long

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, numbers: Tensor) -> Batch:
        made = [self.scene(number) for number in numbers.tolist()]
        pixels = torch.from_numpy(np.stack([draw(each, self.resolution) for each in made]))
        captions = [self._caption(each, number) for each, number in zip(made, numbers.tolist(), strict=True)]
        return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1, {"captions": captions}

    def scene(self, number: int) -> Scene:
        """What is in a picture."""
        return scene(self.seed, number)

    def _caption(self, made: Scene, number: int) -> str:
        if not self.long:
            return made.caption
        generator = Generator().manual_seed(derive(self.seed, "long", number))
        return made.long_caption if float(torch.rand((), generator=generator)) < self.long else made.caption


class ShapesDataModule(StepDataModule):
    """`data.name=shapes`: of the model's size, in the order of their numbers."""

    def __init__(self, config: TrialConfig) -> None:
        resolution = config.model.latent_size[0]
        train = ShapeImages(derive("shapes", config.seed), resolution, PASS, config.data.long_captions)
        val = ShapeImages(HELD_OUT, resolution, config.data.val_images)
        super().__init__(config, train, PASS, val, order=lambda _: torch.arange(PASS), numbered=True)
