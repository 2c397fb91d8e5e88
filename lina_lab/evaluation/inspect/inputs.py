"""The frozen validation inputs that a model is looked at on."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lina_lab.config import TrialConfig
from lina_lab.data.modules.base import StepDataModule

Batch = tuple[Tensor, Any, dict[str, Tensor]]
"""Latents [B, C, H, W], the task's inputs and the condition."""


def validation_batches(
    trial: TrialConfig, data: StepDataModule, images: int, most: int, device: torch.device
) -> Iterator[Batch]:
    """Images spread evenly over the validation set, each with the loss inputs that it has in validation.

    Args:
        trial: gives task, geometry and validation set.
        data: the trial's.
        images: how many.
        most: images of a batch.
        device: of the model.

    Raises:
        ValueError: the validation set has fewer images.
    """
    total = trial.data.val_images
    if images > total:
        raise ValueError(f"images={images}: the validation set has {total} images")
    return _batches(trial, data, [number * total // images for number in range(images)], most, device)


def _batches(
    trial: TrialConfig, data: StepDataModule, chosen: list[int], most: int, device: torch.device
) -> Iterator[Batch]:
    total, size = trial.data.val_images, trial.data.val_batch_size
    sizes = [min(size, total - start) for start in range(0, total, size)]
    for batch, inputs in enumerate(trial.model.kind.load_inputs().frozen(trial.model, sizes)):
        # Images of one validation batch share its mask ratio, so that their inputs can be joined.
        own = [number - batch * size for number in chosen if number // size == batch]
        for start in range(0, len(own), most):
            taken = own[start : start + most]
            latents, condition = data.val_set[torch.tensor(taken) + batch * size]
            joined = type(inputs).joined([inputs.part(range(number, number + 1)) for number in taken])
            yield latents.to(device), joined, data.condition(condition, device)
