"""scikit-learn's digits: 1,797 real 8 x 8 images of handwritten digits in 10 classes, shipped inside the package.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998).
"""

import lightning as L
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lina_lab.config import TrialConfig
from lina_lab.data.stream import StepBatches

SPLIT_SEED = 0
"""The split is the same for every trial, whatever its seed."""


def digits() -> tuple[Tensor, Tensor]:
    """All images, float32 [1797, 1, 8, 8] in [-1, 1] (pixels 0..16 in the source), and classes, int64 [1797]."""
    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(images).float().reshape(-1, 1, 8, 8)
    return pixels / 8 - 1, torch.from_numpy(labels).long()


class DigitsDataModule(L.LightningDataModule):
    """Batches (latents float32 [B, 1, 8, 8], label int64 [B]) of the digits, with a fixed stratified split.

    A Lightning epoch is the stretch between two validations, so that what is trained on depends on the seed and the
    step alone; the last epoch ends with the budget.
    """

    def __init__(self, config: TrialConfig) -> None:
        super().__init__()
        self.config = config
        images, labels = digits()
        train_ids, val_ids = train_test_split(
            range(len(images)), test_size=config.data.val_images, random_state=SPLIT_SEED, stratify=labels
        )
        self.train_set = TensorDataset(images[train_ids], labels[train_ids])
        self.val_set = TensorDataset(images[val_ids], labels[val_ids])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        epoch = self.trainer.current_epoch if self.trainer else 0
        steps = self.config.epoch_steps
        batches = StepBatches(
            images=len(self.train_set),
            batch_size=self.config.data.batch_size,
            steps=range(epoch * steps, min((epoch + 1) * steps, self.config.max_steps)),
            seed=self.config.seed,
        )
        return DataLoader(self.train_set, sampler=batches, batch_size=None)

    def val_dataloader(self) -> list[DataLoader[tuple[Tensor, ...]]]:
        """The validation set twice: the module takes raw weights to the first and averaged ones to the second."""
        return [DataLoader(self.val_set, batch_size=self.config.data.val_batch_size) for _ in range(2)]
