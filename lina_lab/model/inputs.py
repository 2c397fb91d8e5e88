"""The random inputs of a loss and of generation, sampled on the CPU, so that every device sees the same numbers.

Each task has a class of inputs (`Task.inputs`). They depend on the image's geometry, never on the variant or the
model's size.

Shapes: B batch, R noise samples of a token, N image tokens, V visible ones, K masked ones (V + K = N), C numbers of a
token.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor

from lina_lab.config import LinaConfig
from lina_lab.model.flow import sample_logit_normal_timesteps
from lina_lab.model.masking import random_orders, sample_mask_ratio, stratified_mask_ratios
from lina_lab.model.schedule import num_masked
from lina_lab.util.seeds import derive, seeded

IMAGES_PER_GENERATOR = 32
"""Images of a batch that share a generator. A rank samples only for the groups that its images are in."""


@dataclass(frozen=True, kw_only=True)
class Inputs(ABC):
    """All that is random in one loss. Fields are tensors whose first axis are the images, but for those in `SECOND`."""

    SECOND: ClassVar[tuple[str, ...]] = ()
    """Fields of which the images are the second axis."""

    @classmethod
    @abstractmethod
    def sample(cls, config: LinaConfig, batch: int, generator: Generator, **options: Any) -> Self:
        """Sample what one loss needs.

        Args:
            config: the model.
            batch: images B.
            generator: on the CPU.
            options: of the task, such as augmentations, or what `of_batch` sampled.
        """

    @classmethod
    def of_batch(cls, config: LinaConfig, generator: Generator) -> dict[str, Any]:
        """What all images of a step's batch have in common, as options of `sample`."""
        return {}

    @classmethod
    @abstractmethod
    def frozen(cls, config: LinaConfig, sizes: Sequence[int]) -> list[Self]:
        """The inputs of the validation batches of these sizes: the same for every variant, size and seed."""

    def __len__(self) -> int:
        """Images B."""
        name, value = next(iter(vars(self).items()))
        return value.shape[int(name in self.SECOND)]

    def to(self, device: torch.device) -> Self:
        """The same inputs on `device`."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})

    def part(self, images: range) -> Self:
        """The inputs of some of the images, by their indices in the batch."""
        indices = slice(images.start, images.stop)
        parts = {n: value[:, indices] if n in self.SECOND else value[indices] for n, value in vars(self).items()}
        return replace(self, **parts)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The inputs of all images of the parts, in their order."""
        names = vars(parts[0])
        return cls(**{n: torch.cat([getattr(part, n) for part in parts], int(n in cls.SECOND)) for n in names})


@dataclass(frozen=True, kw_only=True)
class LossInputs(Inputs):
    """The inputs of LINA's loss, task=generation."""

    SECOND = ("timestep", "noise")

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

    @classmethod
    def of_batch(cls, config: LinaConfig, generator: Generator) -> dict[str, Any]:
        """One mask ratio for the whole batch, as in the paper."""
        return {"mask_ratio": sample_mask_ratio(generator)}

    @classmethod
    def sample(  # type: ignore[override]  # takes this option alone
        cls, config: LinaConfig, batch: int, generator: Generator, *, mask_ratio: float | None = None
    ) -> Self:
        """As in `Inputs`; `mask_ratio` is the share of the tokens to mask, and sampled if it is None."""
        ratio = sample_mask_ratio(generator) if mask_ratio is None else mask_ratio
        masked = num_masked(ratio, config.num_tokens)
        order = random_orders(batch, config.num_tokens, generator)
        shape = (config.noise_samples_per_token, batch, masked)
        return cls(
            visible_ids=order[:, : config.num_tokens - masked],
            masked_ids=order[:, config.num_tokens - masked :],
            timestep=sample_logit_normal_timesteps(torch.rand(shape, generator=generator)),
            noise=torch.randn(*shape, config.token_dim, generator=generator),
            drop=torch.rand(batch, generator=generator) < config.condition_dropout,
        )

    @classmethod
    def frozen(cls, config: LinaConfig, sizes: Sequence[int]) -> list[Self]:
        """As in `Inputs`.

        Mask ratios are stratified over the batches, and noise levels over the samples of each image, which removes most
        of the sampling noise from the loss. No condition is dropped.
        """
        ratios = stratified_mask_ratios(len(sizes))
        return [
            cls.sample(config, batch, Generator().manual_seed(derive("validation", i)), mask_ratio=ratio)._stratified()
            for i, (batch, ratio) in enumerate(zip(sizes, ratios, strict=True))
        ]

    def _stratified(self) -> Self:
        """With stratified noise levels in place of those sampled, and no condition dropped."""
        repeats, batch, masked = self.timestep.shape
        count = repeats * masked
        generator = Generator().manual_seed(derive("levels", batch, count))
        shuffled_BS = torch.rand(batch, count, generator=generator).argsort(dim=1)
        uniform_BS = (shuffled_BS + torch.rand(batch, count, generator=generator)) / count
        levels_BS = sample_logit_normal_timesteps(uniform_BS)
        return replace(
            self,
            timestep=levels_BS.reshape(batch, repeats, masked).transpose(0, 1).contiguous(),
            drop=torch.zeros_like(self.drop),
        )


def sample_step_inputs(
    config: LinaConfig, *, seed: int, step: int, images: range, rng_version: int = 1, **options: Any
) -> Any:
    """The inputs of some images of an optimizer step's batch, whatever rank samples those of the others.

    They depend on (seed, step, index in the batch) alone, so neither on the layout of the ranks nor on the variant or
    the model's size. What a batch has in common is the first sample of the first group.

    Args:
        config: gives the task, the geometry, `noise_samples_per_token` and `condition_dropout`.
        seed: the trial's seed.
        step: optimizer step, from 0.
        images: indices in the batch of all ranks.
        rng_version: one of `seeds.RNG_VERSIONS`.
        options: of the task's inputs, such as augmentations.

    Returns:
        The task's inputs.
    """
    kind = config.kind.load_inputs()
    first = seeded(rng_version, seed, "step", step, 0)
    common = kind.of_batch(config, first) | options
    parts = []
    for group in range(images.start // IMAGES_PER_GENERATOR, -(-images.stop // IMAGES_PER_GENERATOR)):
        generator = first if group == 0 else seeded(rng_version, seed, "step", step, group)
        start = group * IMAGES_PER_GENERATOR
        # The last group of a batch may be smaller. It is sampled whole, so that its inputs do not depend on the rank.
        inputs = kind.sample(config, IMAGES_PER_GENERATOR, generator, **common)
        parts.append(inputs.part(range(max(images.start - start, 0), min(images.stop - start, IMAGES_PER_GENERATOR))))
    return kind.joined(parts)


def sample_loss_inputs(config: LinaConfig, batch: int, generator: Generator, **options: Any) -> Any:
    """The inputs of the task's loss for a batch, see `Inputs.sample`."""
    return config.kind.load_inputs().sample(config, batch, generator, **options)


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
