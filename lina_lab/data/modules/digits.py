"""scikit-learn's digits: 1,797 real 8 x 8 images of handwritten digits in 10 classes, shipped with that package.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998).
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from lina_lab.config import TrialConfig
from lina_lab.data.modules.base import StepDataModule
from lina_lab.data.modules.split import stratified


def digits() -> tuple[Tensor, Tensor]:
    """All images, float32 [1797, 1, 8, 8] in [-1, 1] (pixels 0..16 in the source), and classes, int64 [1797]."""
    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(images).float().reshape(-1, 1, 8, 8)
    return pixels / 8 - 1, torch.from_numpy(labels).long()


class DigitsDataModule(StepDataModule):
    """The digits, with a fixed stratified split."""

    def __init__(self, config: TrialConfig) -> None:
        train, val = stratified(*digits(), config.data.val_images)
        super().__init__(config, train, len(train), val)
