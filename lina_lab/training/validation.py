"""The frozen validation loss: the same images, masks, noise levels and noise for every variant, size and seed."""

from dataclasses import replace

import torch
from torch import Generator

from lina_lab.config import TrialConfig
from lina_lab.model import LossInputs, sample_loss_inputs
from lina_lab.model.flow import sample_logit_normal_timesteps
from lina_lab.model.masking import stratified_mask_ratios
from lina_lab.util.seeds import derive


def frozen_loss_inputs(config: TrialConfig) -> list[LossInputs]:
    """The loss inputs of each validation batch: a function of the validation set's and the image's geometry alone.

    Mask ratios are stratified over the batches, and noise levels over the samples of each image, which removes most of
    the sampling noise from the loss. No condition is dropped.
    """
    images, size = config.data.val_images, config.data.val_batch_size
    batches = [min(size, images - start) for start in range(0, images, size)]
    ratios = stratified_mask_ratios(len(batches))
    return [
        _stratify(
            sample_loss_inputs(config.model, batch, Generator().manual_seed(derive("validation", i)), mask_ratio=ratio)
        )
        for i, (batch, ratio) in enumerate(zip(batches, ratios, strict=True))
    ]


def _stratify(inputs: LossInputs) -> LossInputs:
    """Replace the noise levels by stratified ones, and drop no condition."""
    repeats, batch, masked = inputs.timestep.shape
    count = repeats * masked
    generator = Generator().manual_seed(derive("levels", batch, count))
    shuffled_BS = torch.rand(batch, count, generator=generator).argsort(dim=1)
    uniform_BS = (shuffled_BS + torch.rand(batch, count, generator=generator)) / count
    return replace(
        inputs,
        timestep=sample_logit_normal_timesteps(uniform_BS).reshape(batch, repeats, masked).transpose(0, 1).contiguous(),
        drop=torch.zeros_like(inputs.drop),
    )
