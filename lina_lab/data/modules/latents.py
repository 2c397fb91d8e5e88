"""Encoded latents in arrays: train_latents.npy and train_labels.npy in a folder, and the same for val."""

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lina_lab.config import TrialConfig
from lina_lab.data.batch import Batch
from lina_lab.data.modules.base import Labelled, StepDataModule
from lina_lab.util.errors import first_line

HASHED_WHOLE = 2**30
"""Bytes of an array up to which all of it is hashed: a second. Of a larger one as many bytes are, evenly spread."""
PIECE = 2**20
"""Bytes that are hashed together."""


class LatentArrays(Dataset[Batch]):
    """Latents [n, C, H, W] of any float type and labels [n] of any integer type, read from disk by a tensor of indices.

    Raises:
        ValueError: a file is missing, holds another array, or does not fit the model.
    """

    def __init__(self, folder: Path, split: str, config: TrialConfig) -> None:
        self.name = f"{folder}/{split}_latents.npy"
        self.latents, self.labels = (_open(folder / f"{split}_{name}.npy") for name in ("latents", "labels"))
        model = config.model
        shape = (len(self.labels), model.latent_channels, *model.latent_size)
        if self.labels.ndim != 1 or not np.issubdtype(self.labels.dtype, np.integer):
            raise ValueError(f"{folder}/{split}_labels.npy holds {self.labels.dtype}{list(self.labels.shape)}, not [n]")
        if self.latents.shape != shape or not np.issubdtype(self.latents.dtype, np.floating):
            raise ValueError(
                f"{folder}/{split}_latents.npy holds {self.latents.dtype}{list(self.latents.shape)}, and the labels "
                f"and the model need floats {list(shape)}"
            )
        classes = model.num_classes
        if classes is not None and (self.labels.min() < 0 or self.labels.max() >= classes):
            raise ValueError(
                f"{folder}/{split}_labels.npy holds classes {self.labels.min()} to {self.labels.max()}, and "
                f"model.num_classes={classes}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> Batch:
        chosen = indices.numpy()
        labels = torch.from_numpy(self.labels[chosen]).long()
        latents = torch.from_numpy(self.latents[chosen]).float()
        # A sum is finite where all its parts are.
        for row in torch.nonzero(~latents.sum(dim=(1, 2, 3)).isfinite()).flatten().tolist():
            if not bool(latents[row].isfinite().all()):
                raise ValueError(f"{self.name}: the latent with index {int(chosen[row])} is not finite")
        return latents, {"label": labels}

    @property
    def sha256(self) -> str:
        """A hash of both arrays."""
        digest = hashlib.sha256()
        for array in (self.latents, self.labels):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            data = array.ravel(order="K").view(np.uint8).data
            step = PIECE * max(1, -(-len(data) // HASHED_WHOLE))
            for start in range(0, len(data), step):
                digest.update(data[start : start + PIECE])
        return digest.hexdigest()


def _open(path: Path) -> "np.ndarray":
    # NumPy reads a header as Python's source: of a damaged one it raises whatever the parser raises.
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        raise ValueError(f"{path} is not an array that can be read: {first_line(error)}") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"{path} is not an array that can be read: it is an archive of several")
    if not len(array.shape) or not len(array):
        raise ValueError(f"{path} holds nothing")
    return array


class LatentsDataModule(StepDataModule):
    """The arrays in `data.path`; for validation the first `data.val_images` of the held-out ones."""

    def __init__(self, config: TrialConfig) -> None:
        train, val = _fitting(config)
        latents, condition = val[torch.arange(config.data.val_images)]
        held_out = Labelled(latents, condition["label"])
        super().__init__(config, train, len(train), held_out)
        self.arrays = (train, val)

    @cached_property
    def data_sha256(self) -> str:
        """The hash of the arrays."""
        return hashlib.sha256("".join(each.sha256 for each in self.arrays).encode()).hexdigest()

    @classmethod
    def check_data(cls, config: TrialConfig) -> None:
        _fitting(config)


def _fitting(config: TrialConfig) -> tuple[LatentArrays, LatentArrays]:
    """A trial's arrays for training and for validation.

    Raises:
        ValueError: a file is missing, or an array does not fit the trial.
    """
    assert config.data.path is not None
    folder = Path(config.data.path)
    train, val = (LatentArrays(folder, split, config) for split in ("train", "val"))
    if len(val) < config.data.val_images:
        raise ValueError(
            f"{folder} holds {len(val)} images for validation, and data.val_images={config.data.val_images}"
        )
    return train, val
