"""The random inputs of a loss and of generation, sampled on the CPU, so that every device sees the same numbers.

Shapes: B batch, R noise samples of a token, N image tokens, V visible ones, K masked ones (V + K = N), C numbers of a
token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from lina_lab.config import LinaConfig
from lina_lab.model.flow import sample_logit_normal_timesteps
from lina_lab.model.masking import random_orders, sample_mask_ratio
from lina_lab.model.schedule import num_masked
from lina_lab.util.seeds import seeded


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """All that is random in one loss. It depends on the image's geometry, never on the variant or the model's size."""

    visible_ids: Tensor
    """int64 [B, V]"""
    masked_ids: Tensor
    """int64 [B, K]"""
    timestep: Tensor
    """int64 [R, B, K], 1..1000"""
    noise: Tensor
    """float [R, B, K, C]"""
    drop: Tensor
    """bool [B]: whose class or text is dropped"""

    def to(self, device: torch.device) -> "LossInputs":
        """The same inputs on `device`."""
        return LossInputs(**{name: value.to(device) for name, value in vars(self).items()})

    def part(self, images: range) -> "LossInputs":
        """The inputs of some of the images, by their indices in the batch."""
        indices = slice(images.start, images.stop)
        parts = {n: value[:, indices] if n in SECOND else value[indices] for n, value in vars(self).items()}
        return LossInputs(**parts)


SECOND = ("timestep", "noise")
"""Fields of which the images are the second axis."""
IMAGES_PER_GENERATOR = 32
"""Images of a batch that share a generator. A rank samples only for the groups that its images are in."""


def sample_step_inputs(config: LinaConfig, *, seed: int, step: int, images: range, rng_version: int = 1) -> LossInputs:
    """The loss inputs of some images of an optimizer step's batch, whatever rank samples those of the others.

    They depend on (seed, step, index in the batch) alone, so neither on the layout of the ranks nor on the variant or
    the model's size. The mask ratio is one for the whole batch, as in the paper: the first sample of the first group.

    Args:
        config: gives the geometry, `noise_samples_per_token` and `condition_dropout`.
        seed: the trial's seed.
        step: optimizer step, from 0.
        images: indices in the batch of all ranks.
        rng_version: one of `seeds.RNG_VERSIONS`.
    """
    first = seeded(rng_version, seed, "step", step, 0)
    ratio = sample_mask_ratio(first)
    parts = []
    for group in range(images.start // IMAGES_PER_GENERATOR, -(-images.stop // IMAGES_PER_GENERATOR)):
        generator = first if group == 0 else seeded(rng_version, seed, "step", step, group)
        start = group * IMAGES_PER_GENERATOR
        # The last group of a batch may be smaller. It is sampled whole, so that its inputs do not depend on the rank.
        inputs = sample_loss_inputs(config, IMAGES_PER_GENERATOR, generator, mask_ratio=ratio)
        parts.append(inputs.part(range(max(images.start - start, 0), min(images.stop - start, IMAGES_PER_GENERATOR))))
    names = vars(parts[0])
    return LossInputs(**{n: torch.cat([getattr(part, n) for part in parts], int(n in SECOND)) for n in names})


def sample_loss_inputs(
    config: LinaConfig, batch: int, generator: Generator, *, mask_ratio: float | None = None
) -> LossInputs:
    """Sample what one loss needs.

    Args:
        config: gives the geometry, `noise_samples_per_token` and `condition_dropout`.
        batch: images B.
        generator: on the CPU.
        mask_ratio: share of the tokens to mask; None: sampled.
    """
    ratio = sample_mask_ratio(generator) if mask_ratio is None else mask_ratio
    masked = num_masked(ratio, config.num_tokens)
    order = random_orders(batch, config.num_tokens, generator)
    shape = (config.noise_samples_per_token, batch, masked)
    return LossInputs(
        visible_ids=order[:, : config.num_tokens - masked],
        masked_ids=order[:, config.num_tokens - masked :],
        timestep=sample_logit_normal_timesteps(torch.rand(shape, generator=generator)),
        noise=torch.randn(*shape, config.token_dim, generator=generator),
        drop=torch.rand(batch, generator=generator) < config.condition_dropout,
    )


def sample_generation_inputs(
    config: LinaConfig, images: int, generator: Generator | Sequence[Generator]
) -> tuple[Tensor, Tensor]:
    """The order in which tokens are written, int64 [B, N], and the noise that each starts from, [B, N, C].

    Raises:
        ValueError: a sequence that does not have one generator for each image.
    """
    if isinstance(generator, Generator):
        order = random_orders(images, config.num_tokens, generator)
        return order, torch.randn(images, config.num_tokens, config.token_dim, generator=generator)
    if len(generator) != images:
        raise ValueError(f"{len(generator)} generators for {images} images")
    orders, noises = zip(*(sample_generation_inputs(config, 1, own) for own in generator), strict=True)
    return torch.cat(orders), torch.cat(noises)
