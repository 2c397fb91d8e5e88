"""The frozen validation loss: the same images and random inputs for every variant, size and seed."""

from typing import Any

from lina_lab.config import TrialConfig


def frozen_loss_inputs(config: TrialConfig) -> list[Any]:
    """The task's inputs of each validation batch: a function of the sizes of the validation set and the image alone."""
    images, size = config.data.val_images, config.data.val_batch_size
    sizes = [min(size, images - start) for start in range(0, images, size)]
    inputs: list[Any] = config.model.kind.load_inputs().frozen(config.model, sizes)
    return inputs
