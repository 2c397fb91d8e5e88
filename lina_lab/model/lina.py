"""LINA: a masked autoregressive image generator over continuous tokens (`lina.md`).

Shapes: B batch, R noise draws, M condition tokens, N image tokens, V visible ones, K masked ones (V + K = N),
C numbers of a token, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise

import torch
from torch import Generator, Tensor, nn

from lina_lab.config import LinaConfig
from lina_lab.model.backbone import (
    ClassEmbedding,
    ConditionEncoder,
    MaskedAutoencoder,
    TextEmbedding,
    patchify,
    unpatchify,
)
from lina_lab.model.flow import NUM_TIMESTEPS, FlowHead, integrate, sample_logit_normal_timesteps
from lina_lab.model.initialization import initialize
from lina_lab.model.masking import num_masked, random_orders, sample_mask_ratio, step_schedule
from lina_lab.util.seeds import derive

RECOMPILATIONS = 64
"""Forms of a block that torch.compile may make in a process: other stacks, numbers of tokens, with gradients or not."""


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """All that is random in one loss. It depends on the image's geometry, never on the variant or the size."""

    visible_ids: Tensor
    """int64 [B, V]"""
    masked_ids: Tensor
    """int64 [B, K]"""
    timestep: Tensor
    """int64 [R, B, K], 1..1000"""
    noise: Tensor
    """float [R, B, K, C]"""
    drop: Tensor
    """bool [B]: whose class or text is hidden"""

    def to(self, device: torch.device) -> "LossInputs":
        """The same draws on `device`."""
        return LossInputs(**{name: value.to(device) for name, value in vars(self).items()})

    def part(self, images: range) -> "LossInputs":
        """The draws of some of the images: places in the batch."""
        places = slice(images.start, images.stop)
        return LossInputs(
            visible_ids=self.visible_ids[places],
            masked_ids=self.masked_ids[places],
            timestep=self.timestep[:, places],
            noise=self.noise[:, places],
            drop=self.drop[places],
        )


DRAWN_TOGETHER = 32
"""Images of a batch that share a generator. A rank draws the groups that its images are in, and no others."""


def sample_step_inputs(config: LinaConfig, *, seed: int, step: int, images: range) -> LossInputs:
    """The draws of some images of an optimizer step's batch: the same ones whoever else draws for the others.

    They depend on (seed, step, place in the batch) alone, so on no layout of ranks, and on no variant or size. The mask
    ratio is one for the whole batch, as in the paper (`lina.md` section 3): the first draw of the first group.

    Args:
        config: gives the geometry, the number of noise draws and the share of hidden classes.
        seed: the trial's.
        step: optimizer step, from 0.
        images: places in the batch of all ranks.
    """
    first = _group_generator(seed, step, 0)
    ratio = sample_mask_ratio(first)
    groups = range(images.start // DRAWN_TOGETHER, -(-images.stop // DRAWN_TOGETHER))
    parts = []
    for group in groups:
        generator = first if group == 0 else _group_generator(seed, step, group)
        start = group * DRAWN_TOGETHER
        # The last group of a batch may be smaller; its draws must not depend on who asks, so it is drawn whole.
        draws = sample_loss_inputs(config, DRAWN_TOGETHER, generator, mask_ratio=ratio)
        parts.append(draws.part(range(max(images.start - start, 0), min(images.stop - start, DRAWN_TOGETHER))))
    return parts[0] if len(parts) == 1 else _joined(parts)


def _group_generator(seed: int, step: int, group: int) -> Generator:
    return Generator().manual_seed(derive(seed, "step", step, group))


def _joined(parts: Sequence[LossInputs]) -> LossInputs:
    """Draws of images beside each other as one."""
    along = {"timestep": 1, "noise": 1}
    names = vars(parts[0])
    return LossInputs(**{n: torch.cat([getattr(part, n) for part in parts], along.get(n, 0)) for n in names})


def sample_loss_inputs(
    config: LinaConfig, batch: int, generator: Generator, *, mask_ratio: float | None = None
) -> LossInputs:
    """Draw what one loss needs, on the CPU, so that every device sees the same numbers.

    Args:
        config: gives the geometry, the number of noise draws and the share of hidden classes.
        batch: images B.
        generator: on the CPU.
        mask_ratio: share of the tokens to mask; None: drawn.
    """
    ratio = sample_mask_ratio(generator) if mask_ratio is None else mask_ratio
    masked = num_masked(ratio, config.num_tokens)
    order = random_orders(batch, config.num_tokens, generator)
    draws = (config.noise_samples_per_token, batch, masked)
    return LossInputs(
        visible_ids=order[:, : config.num_tokens - masked],
        masked_ids=order[:, config.num_tokens - masked :],
        timestep=sample_logit_normal_timesteps(torch.rand(draws, generator=generator)),
        noise=torch.randn(*draws, config.token_dim, generator=generator),
        drop=torch.rand(batch, generator=generator) < config.condition_dropout,
    )


def sample_generation_inputs(
    config: LinaConfig, images: int, generator: Generator | Sequence[Generator]
) -> tuple[Tensor, Tensor]:
    """The order in which tokens are written, int64 [B, N], and the noise that each starts from, [B, N, C].

    Raises:
        ValueError: a sequence of generators that is not one for each image.
    """
    if isinstance(generator, Generator):
        order = random_orders(images, config.num_tokens, generator)
        return order, torch.randn(images, config.num_tokens, config.token_dim, generator=generator)
    if len(generator) != images:
        raise ValueError(f"{len(generator)} generators for {images} images")
    orders, noises = zip(*(sample_generation_inputs(config, 1, own) for own in generator), strict=True)
    return torch.cat(orders), torch.cat(noises)


class LINA(nn.Module):
    """The model of `config`, with weights drawn from seed 0; `initialize(model, seed)` draws others."""

    def __init__(self, config: LinaConfig) -> None:
        super().__init__()
        self.config = config
        self.class_embedding = None if config.num_classes is None else ClassEmbedding(config.num_classes, config.dim)
        self.text_embedding = (
            None if config.text_dim is None else TextEmbedding(config.text_dim, config.text_length, config.dim)
        )
        self.condition_encoder = ConditionEncoder(config)
        self.backbone = MaskedAutoencoder(config)
        self.flow_head = FlowHead(config.token_dim, config.dim, config.flow_dim or config.dim, config.flow_depth)
        initialize(self, seed=0)
        if config.compile:
            self._compile()

    def _compile(self) -> None:
        """Each block by itself: blocks that are alike share what is made for one, so that depth costs no time."""
        stacks = (self.condition_encoder.blocks, self.backbone.encoder, self.backbone.decoder)
        for part in (*chain.from_iterable(stacks), self.flow_head):
            part.compile(recompile_limit=RECOMPILATIONS)

    def condition(
        self,
        *,
        label: Tensor | None = None,
        text: Tensor | None = None,
        present: Tensor | None = None,
        batch: int | None = None,
    ) -> Tensor:
        """Condition tokens of a batch: [B, M, D].

        Args:
            label: int64 [B] in 0..num_classes, the last meaning "no class".
            text: float [B, l, text_dim] with l <= text_length, states of a text encoder.
            present: bool [B, l], which of the states are there; None: all. A sample with none is of no text.
            batch: B, for images of no class and no text.

        Raises:
            ValueError: not exactly one of label, text and batch, or one that the model is not conditioned on.
        """
        if sum(given is not None for given in (label, text, batch)) != 1:
            raise ValueError("condition needs one of label, text, and batch (for images of no class and no text)")
        return self.condition_encoder(self._prefix(label, text, present, batch))

    def _prefix(self, label: Tensor | None, text: Tensor | None, present: Tensor | None, batch: int | None) -> Tensor:
        """Prefix tokens [B, L, D] of a condition."""
        config, weight = self.config, self.backbone.mask_token
        if (label is not None and config.num_classes is None) or (text is not None and config.text_dim is None):
            given, field = ("label", "num_classes") if text is None else ("text", "text_dim")
            raise ValueError(f"{given} given to a model that is not conditioned on it ({field}=None)")
        if self.class_embedding is not None:
            none = torch.full((batch or 0,), config.num_classes or 0, device=weight.device)
            return self.class_embedding(none if label is None else label)
        if self.text_embedding is not None:
            states = weight.new_zeros(batch or 0, 0, config.text_dim or 0) if text is None else text
            there = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
            return self.text_embedding(states, there if present is None else present)
        return weight.new_zeros(batch or 0, 0, config.dim)

    def encode(self, latents: Tensor, c: Tensor, visible_ids: Tensor) -> Tensor:
        """z of every token: latents [B, C, H, W], c [B, M, D], visible_ids int64 [B, V] to [B, N, D].

        What `latents` holds at tokens that are not visible has no influence.
        """
        return self._encode_tokens(patchify(latents, self.config.patch_size), c, visible_ids)

    def _encode_tokens(self, tokens_BNC: Tensor, c_BMD: Tensor, visible_ids_BV: Tensor) -> Tensor:
        return self.backbone(gather(tokens_BNC, visible_ids_BV), c_BMD, visible_ids_BV)

    def velocity(self, noised: Tensor, timestep: Tensor, z: Tensor) -> Tensor:
        """Velocity of noised tokens [..., C] at timestep [...] (= 1000 σ) given z [..., D]: [..., C]."""
        return self.flow_head(noised, timestep, z)

    def loss(
        self,
        latents: Tensor,
        *,
        label: Tensor | None = None,
        text: Tensor | None = None,
        present: Tensor | None = None,
        generator: Generator,
    ) -> Tensor:
        """Flow-matching loss of latents [B, C, H, W]: a scalar. `generator` (on the CPU) gives all its draws."""
        draws = sample_loss_inputs(self.config, len(latents), generator)
        return self.loss_from_inputs(latents, draws, label=label, text=text, present=present)

    def loss_from_inputs(
        self,
        latents: Tensor,
        draws: LossInputs,
        *,
        label: Tensor | None = None,
        text: Tensor | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        """The loss under given draws: squared error of the velocity, mean over masked tokens and their numbers."""
        draws = draws.to(latents.device)
        if label is not None:
            label = label.masked_fill(draws.drop, self.config.num_classes or 0)
        if text is not None:
            there = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device) if present is None else present
            present = there & ~draws.drop.unsqueeze(1)
        batch = len(latents) if label is None and text is None else None
        c_BMD = self.condition(label=label, text=text, present=present, batch=batch)
        tokens_BNC = patchify(latents, self.config.patch_size)
        z_BND = self._encode_tokens(tokens_BNC, c_BMD, draws.visible_ids)
        z_BKD, x_BKC = gather(z_BND, draws.masked_ids), gather(tokens_BNC, draws.masked_ids)
        sigma = (draws.timestep / NUM_TIMESTEPS).unsqueeze(-1).to(x_BKC.dtype)
        noised = sigma * draws.noise + (1 - sigma) * x_BKC
        velocity = self.velocity(noised, draws.timestep, z_BKD)
        return (velocity.float() - (draws.noise - x_BKC)).square().mean()

    @torch.no_grad()
    def generate(
        self,
        *,
        label: Tensor | None = None,
        text: Tensor | None = None,
        present: Tensor | None = None,
        batch: int | None = None,
        steps: int = 64,
        flow_steps: int = 25,
        guidance: float = 1.0,
        min_guidance: float = 1.0,
        generator: Generator | Sequence[Generator],
    ) -> Tensor:
        """Latent images [B, C, H, W].

        Args:
            label, text, present, batch: as in `condition`.
            steps: autoregressive steps K, 1..N.
            flow_steps: Euler steps of the flow for each.
            guidance: of the last step, `v_u + g (v_c - v_u)`; it grows linearly from `min_guidance` at the first.
                When both are 1 the unconditional pass is not made.
            min_guidance: of the first step.
            generator: on the CPU; gives the orders and the noise. A sequence gives each image its own, so that an image
                does not depend on those beside it.

        Raises:
            ValueError: a step count out of range, or guidance of an unconditional model.
        """
        config = self.config
        guided = guidance != 1.0 or min_guidance != 1.0
        if guided and not config.conditional:
            raise ValueError("guidance needs a model with a condition (num_classes or text_dim)")
        if flow_steps < 1:
            raise ValueError(f"flow_steps={flow_steps} must be at least 1")
        known = step_schedule(config.num_tokens, steps)
        c = self.condition(label=label, text=text, present=present, batch=batch)
        images = len(c)
        order, noise = (draw.to(c.device) for draw in sample_generation_inputs(config, images, generator))
        if guided:
            c = torch.cat([c, self.condition(batch=images)])
        tokens = torch.zeros_like(noise)
        copies = 2 if guided else 1
        for step, (start, stop) in enumerate(pairwise([0, *known])):
            # The last step has the full guidance, also when it is the only one.
            share = step / (len(known) - 1) if len(known) > 1 else 1.0
            scale = min_guidance + (guidance - min_guidance) * share
            visible, ids = order[:, :start], order[:, start:stop]
            z_BND = self._encode_tokens(tokens.repeat(copies, 1, 1), c, visible.repeat(copies, 1))
            code = self.flow_head.z_mlp(gather(z_BND, ids.repeat(copies, 1)))
            velocity = partial(self._guided, code, scale)
            written = integrate(velocity, gather(noise, ids), flow_steps)
            tokens = tokens.scatter(1, ids.unsqueeze(-1).expand_as(written), written)
        return unpatchify(tokens, config.grid, config.patch_size)

    def _guided(self, code: Tensor, guidance: float, x: Tensor, timestep: float) -> Tensor:
        """Velocity of x [B, S, C]; the code of z [B or 2B, S, F] has the unconditional half behind the conditional."""
        copies = len(code) // len(x)
        time = torch.full((1, 1), timestep, device=x.device)
        velocity = self.flow_head.given(x.repeat(copies, 1, 1), time, code)
        conditional, *unconditional = velocity.float().chunk(copies)
        return unconditional[0] + guidance * (conditional - unconditional[0]) if unconditional else conditional


def gather(values_BNC: Tensor, ids_BK: Tensor) -> Tensor:
    """The rows of each sample that `ids_BK` names, in its order: [B, K, C]."""
    return values_BNC.gather(1, ids_BK.unsqueeze(-1).expand(-1, -1, values_BNC.shape[-1]))
