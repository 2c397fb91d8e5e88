"""A diffusion model of images, task=diffusion: LINA's attentions in blocks with AdaLN-zero, as DiT and SiT have them.

All tokens of an image are noised at one level σ: `x_σ = σ e + (1 - σ) x`, whose velocity in σ is `e - x`; σ is uniform
(SiT, arXiv 2401.08740). Blocks are told `1000 σ`, and a class or a text, through the modulations of their norms alone.

Shapes: B batch, N image tokens, C numbers of a token, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from lina_lab.config import AttentionConfig, LinaConfig
from lina_lab.model.attention import Attention
from lina_lab.model.backbone import Mlp, Stack, compile_each, patchify, unpatchify
from lina_lab.model.conditions import PooledText, all_present, check_condition, drop_conditions, guidance_misfit
from lina_lab.model.flow import NUM_TIMESTEPS, SINUSOID_DIM, integrate
from lina_lab.model.initialization import initialize
from lina_lab.model.inputs import Inputs
from lina_lab.model.layers import ADALN_EPS, AdaLNModulation, TwoLayer, ZeroLinear, modulate
from lina_lab.model.positions import Rotation, sinusoid
from lina_lab.util.seeds import derive
from lina_lab.variants import POSITIONS


@dataclass(frozen=True, kw_only=True)
class DiffusionInputs(Inputs):
    """The inputs of the diffusion loss."""

    sigma: Tensor
    """float [B], uniform in 0..1: one noise level for each image"""
    noise: Tensor
    """float [B, N, C]"""
    drop: Tensor
    """bool [B]: whose class or text is dropped"""

    @classmethod
    def sample(cls, config: LinaConfig, batch: int, generator: Generator) -> Self:  # type: ignore[override]  # no options
        """As in `Inputs`."""
        return cls(
            sigma=torch.rand(batch, generator=generator),
            noise=torch.randn(batch, config.num_tokens, config.token_dim, generator=generator),
            drop=torch.rand(batch, generator=generator) < config.condition_dropout,
        )

    @classmethod
    def frozen(cls, config: LinaConfig, sizes: Sequence[int]) -> list[Self]:
        """As in `Inputs`; levels are stratified over all images, and no condition is dropped."""
        images = sum(sizes)
        generator = Generator().manual_seed(derive("levels", images))
        order = torch.randperm(images, generator=generator)
        sigma = (order + torch.rand(images, generator=generator)) / images
        found = []
        for i, (batch, levels) in enumerate(zip(sizes, torch.split(sigma, list(sizes)), strict=True)):
            sampled = cls.sample(config, batch, Generator().manual_seed(derive("validation", i)))
            found.append(cls(sigma=levels, noise=sampled.noise, drop=torch.zeros_like(sampled.drop)))
        return found


class AdaLNBlock(nn.Module):
    """A block with AdaLN-zero: each branch f is modulated at its start and gated at its end by the condition.

    Norm before: `x + gate f(LN0(x) (1 + scale) + shift)`, DiT's block, where LN0 has no parameters. Norm after:
    `x + gate LN(f(x (1 + scale) + shift))`, which is LINA's block where the gate is 1, scale and shift are 0.
    """

    def __init__(self, config: LinaConfig, attention: AttentionConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_placement == "before"
        self.modulation = AdaLNModulation(config.dim, 6)
        self.attn = Attention(config.dim, config.num_heads, attention, config.grid, config.condition_tokens)
        self.norm1 = self._norm(config.dim)
        self.mlp = Mlp(config.dim)
        self.norm2 = self._norm(config.dim)

    def _norm(self, dim: int) -> nn.LayerNorm:
        return nn.LayerNorm(dim, eps=ADALN_EPS, elementwise_affine=False) if self.norm_first else nn.LayerNorm(dim)

    def forward(self, x: Tensor, rotation: Rotation | None, condition_BD: Tensor) -> Tensor:
        modulations = self.modulation(F.silu(condition_BD).unsqueeze(1))
        x = self._branch(x, self.norm1, lambda y: self.attn(y, rotation), *modulations[:3])
        return self._branch(x, self.norm2, self.mlp, *modulations[3:])

    def _branch(
        self, x: Tensor, norm: nn.Module, branch: Callable[[Tensor], Tensor], scale: Tensor, shift: Tensor, gate: Tensor
    ) -> Tensor:
        if self.norm_first:
            return torch.addcmul(x, gate, branch(modulate(norm(x), scale, shift)))
        return torch.addcmul(x, gate, norm(branch(modulate(x, scale, shift))))


class DiffusionModel(nn.Module):
    """The model of `config`, with the initial weights of seed 0; `initialize(model, seed)` samples others.

    Args:
        config: geometry, sizes and variants.
    """

    def __init__(self, config: LinaConfig) -> None:
        super().__init__()
        self.config = config
        self.time_mlp = TwoLayer(SINUSOID_DIM, config.dim)
        self.class_table = None if config.num_classes is None else nn.Embedding(config.num_classes + 1, config.dim)
        self.text = None if config.text_dim is None else PooledText(config.text_dim, config.text_length, config.dim)
        self.embed = nn.Linear(config.token_dim, config.dim)
        self.positions = POSITIONS[config.position].load()(config.image_geometry)
        self.blocks = Stack(config, config.decoder_blocks, AdaLNBlock)
        self.modulation = AdaLNModulation(config.dim, 2)
        self.norm = nn.LayerNorm(config.dim, eps=ADALN_EPS, elementwise_affine=False)
        self.out = ZeroLinear(config.dim, config.token_dim)
        initialize(self, seed=0)
        if config.compile:
            compile_each(self.blocks)

    def condition(
        self,
        *,
        label: Tensor | None = None,
        text: Tensor | None = None,
        present: Tensor | None = None,
        batch: int | None = None,
    ) -> Tensor:
        """The vector of a batch's classes or texts, [B, D]; arguments and errors are those of `LINA.condition`."""
        config, weight = self.config, self.embed.weight
        check_condition(config, label, text, batch)
        if self.class_table is not None:
            none = torch.full((batch or 0,), config.num_classes or 0, device=weight.device)
            return self.class_table(none if label is None else label)
        if self.text is not None:
            states = weight.new_zeros(batch or 0, 0, config.text_dim or 0) if text is None else text
            return self.text(states, all_present(states) if present is None else present)
        return weight.new_zeros(batch or 0, config.dim)

    def velocity(self, noised: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """The velocity [B, N, C].

        Args:
            noised: noised tokens [B, N, C].
            timestep: `1000 σ`, [B] or [1].
            condition: of classes or texts, [B, D].
        """
        x_BND = self.positions.add(self.embed(noised))
        time = self.time_mlp(sinusoid(timestep, SINUSOID_DIM).to(self.embed.weight.dtype))
        condition_BD = time + condition
        x_BND = self.blocks(x_BND, self.positions.rotation(0), condition_BD)
        return self.out(modulate(self.norm(x_BND), *self.modulation(F.silu(condition_BD).unsqueeze(1))))

    def loss_from_inputs(
        self,
        latents: Tensor,
        inputs: DiffusionInputs,
        *,
        label: Tensor | None = None,
        text: Tensor | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        """Squared error of the velocity of latents [B, C, H, W]: mean over images, tokens and channels, a scalar."""
        inputs = inputs.to(latents.device)
        condition = self.condition(**drop_conditions(self.config, inputs.drop, label, text, present))
        tokens = patchify(latents, self.config.patch_size)
        sigma = inputs.sigma[:, None, None]
        noised = sigma * inputs.noise + (1 - sigma) * tokens
        velocity = self.velocity(noised, NUM_TIMESTEPS * inputs.sigma, condition)
        # The target is in float32, and so is the difference.
        return (velocity - (inputs.noise - tokens)).square().mean()

    @torch.no_grad()
    def generate(
        self,
        *,
        label: Tensor | None = None,
        text: Tensor | None = None,
        present: Tensor | None = None,
        batch: int | None = None,
        steps: int = 1,
        flow_steps: int = 25,
        guidance: float = 1.0,
        min_guidance: float = 1.0,
        solver: str = "euler",
        generator: Generator | Sequence[Generator],
    ) -> Tensor:
        """Latent images [B, C, H, W].

        Args:
            label: see `LINA.condition`.
            text: see `LINA.condition`.
            present: see `LINA.condition`.
            batch: see `LINA.condition`.
            steps: LINA's autoregressive steps, of which there are none here: any number does the same.
            flow_steps: steps of the flow's ODE.
            guidance: classifier-free guidance scale g at σ = 0, `v_u + g (v_c - v_u)`; it grows linearly in σ from
                `min_guidance` at σ = 1. Where both are 1 there is no unconditional pass.
            min_guidance: the scale at σ = 1.
            solver: of the ODE, euler or heun; see `integrate`.
            generator: on the CPU; samples the noise. A sequence has one for each image, so that an image does not
                depend on the others of its batch.

        Raises:
            ValueError: no step, an unknown solver, or guidance of a model without a condition, or that never dropped
                it.
        """
        config = self.config
        guided = guidance != 1.0 or min_guidance != 1.0
        if guided and (misfit := guidance_misfit(config)) is not None:
            raise ValueError(misfit)
        condition = self.condition(label=label, text=text, present=present, batch=batch)
        noise = sample_noise(config, len(condition), generator).to(self.embed.weight)
        if guided:
            condition = torch.cat([condition, self.condition(batch=len(noise))])
        copies = len(condition) // len(noise)

        def velocity(x: Tensor, timestep: float) -> Tensor:
            time = torch.full((1,), timestep, dtype=x.dtype, device=x.device)
            found = self.velocity(x.repeat(copies, 1, 1), time, condition).to(x.dtype)
            conditional, *unconditional = found.chunk(copies)
            scale = min_guidance + (guidance - min_guidance) * (1 - timestep / NUM_TIMESTEPS)
            return unconditional[0] + scale * (conditional - unconditional[0]) if unconditional else conditional

        return unpatchify(integrate(velocity, noise, flow_steps, solver), config.grid, config.patch_size)


def sample_noise(config: LinaConfig, images: int, generator: Generator | Sequence[Generator]) -> Tensor:
    """The noise that images are generated from, [B, N, C].

    Raises:
        ValueError: a sequence that does not have one generator for each image.
    """
    if isinstance(generator, Generator):
        return torch.randn(images, config.num_tokens, config.token_dim, generator=generator)
    if len(generator) != images:
        raise ValueError(f"{len(generator)} generators for {images} images")
    return torch.cat([sample_noise(config, 1, own) for own in generator])
