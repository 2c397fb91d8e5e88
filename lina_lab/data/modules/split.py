"""The fixed split of images with classes that are all in memory."""

from sklearn.model_selection import train_test_split
from torch import Tensor

from lina_lab.data.modules.base import Labelled

SPLIT_SEED = 0
"""Seed of the split: the same for every trial, whatever its seed."""


def stratified(images: Tensor, labels: Tensor, val_images: int) -> tuple[Labelled, Labelled]:
    """Split images into those for training and those held out, with equal shares of the classes.

    Args:
        images: [n, C, H, W].
        labels: classes [n].
        val_images: how many are held out.
    """
    train_ids, val_ids = train_test_split(
        range(len(images)), test_size=val_images, random_state=SPLIT_SEED, stratify=labels
    )
    return Labelled(images[train_ids], labels[train_ids]), Labelled(images[val_ids], labels[val_ids])
