"""LINA: a masked autoregressive image generator over continuous tokens.

Shapes: B batch, R noise samples of a token, M condition tokens, N image tokens, V visible ones, K masked ones
(V + K = N), C numbers of a token, D width.
"""

from collections.abc import Sequence
from functools import partial
from itertools import chain, pairwise
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from lina_lab.config import LinaConfig
from lina_lab.model.backbone import (
    ConditionEncoder,
    MaskedAutoencoder,
    compile_each,
    patchify,
    unpatchify,
)
from lina_lab.model.conditions import (
    ClassEmbedding,
    TextEmbedding,
    all_present,
    check_condition,
    drop_conditions,
    guidance_misfit,
)
from lina_lab.model.flow import NUM_TIMESTEPS, FlowHead, integrate
from lina_lab.model.initialization import initialize
from lina_lab.model.inputs import LossInputs, sample_generation_inputs, sample_loss_inputs
from lina_lab.model.layers import gather
from lina_lab.model.schedule import step_schedule


class Prediction(NamedTuple):
    """What the loss of some images is made of. A tuple: in other containers FSDP would not see the gradients."""

    z: Tensor
    """The decoder's vectors of the masked tokens, [B, K, D]."""
    velocity: Tensor
    """Predicted for the noised tokens, [R, B, K, C]."""
    target: Tensor
    """The velocity that it should be, [R, B, K, C]."""

    @property
    def flow_loss(self) -> Tensor:
        """Squared error of the velocity, mean over noise samples, images, masked tokens and channels: a scalar."""
        return (self.velocity.float() - self.target).square().mean()


class LINA(nn.Module):
    """The model of `config`, with the initial weights of seed 0; `initialize(model, seed)` samples others.

    Args:
        config: geometry, sizes and variants.
    """

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
            stacks = (self.condition_encoder.blocks, self.backbone.encoder, self.backbone.decoder)
            compile_each([*chain.from_iterable(stacks), self.flow_head])

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
            label: int64 [B] in 0..num_classes, where num_classes means "no class".
            text: float [B, l, text_dim] with l <= text_length, hidden states of a text encoder.
            present: bool [B, l], which of the states exist; None: all. A sample without any has no text.
            batch: B, for images without class and text.

        Raises:
            ValueError: not exactly one of label, text and batch, or one that the model is not conditioned on.
        """
        check_condition(self.config, label, text, batch)
        return self.condition_encoder(self._prefix(label, text, present, batch))

    def _prefix(self, label: Tensor | None, text: Tensor | None, present: Tensor | None, batch: int | None) -> Tensor:
        """Prefix tokens [B, L, D] of a condition."""
        config, weight = self.config, self.backbone.mask_token
        if self.class_embedding is not None:
            none = torch.full((batch or 0,), config.num_classes or 0, device=weight.device)
            return self.class_embedding(none if label is None else label)
        if self.text_embedding is not None:
            states = weight.new_zeros(batch or 0, 0, config.text_dim or 0) if text is None else text
            return self.text_embedding(states, all_present(states) if present is None else present)
        return weight.new_zeros(batch or 0, 0, config.dim)

    def encode(self, latents: Tensor, c: Tensor, visible_ids: Tensor) -> Tensor:
        """The decoder's z of every token: latents [B, C, H, W], c [B, M, D], visible_ids int64 [B, V] to [B, N, D].

        The result does not depend on `latents` at tokens that are not visible.
        """
        return self._encode_tokens(patchify(latents, self.config.patch_size), c, visible_ids)

    def _encode_tokens(
        self, tokens_BNC: Tensor, c_BMD: Tensor, visible_ids_BV: Tensor, read_ids_BK: Tensor | None = None
    ) -> Tensor:
        """The z of the tokens in `read_ids_BK`, [B, K, D], or of all, [B, N, D]."""
        return self.backbone(gather(tokens_BNC, visible_ids_BV), c_BMD, visible_ids_BV, read_ids_BK)

    def velocity(self, noised: Tensor, timestep: Tensor, z: Tensor) -> Tensor:
        """Velocity of noised tokens [..., C] at timestep [...] (= 1000 σ), from z [..., D]: [..., C]."""
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
        """Flow-matching loss of latents [B, C, H, W]: a scalar. `generator` (on the CPU) samples all that is random."""
        inputs = sample_loss_inputs(self.config, len(latents), generator)
        return self.loss_from_inputs(latents, inputs, label=label, text=text, present=present)

    def loss_from_inputs(
        self,
        latents: Tensor,
        inputs: LossInputs,
        *,
        label: Tensor | None = None,
        text: Tensor | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        """The loss for these random inputs: squared error of the velocity, mean over masked tokens and channels."""
        return self._predict(latents, inputs, label, text, present).flow_loss

    def predict(
        self,
        latents: Tensor,
        inputs: LossInputs,
        *,
        label: Tensor | None = None,
        text: Tensor | None = None,
        present: Tensor | None = None,
    ) -> Prediction:
        """What `loss_from_inputs` is computed from."""
        return self._predict(latents, inputs, label, text, present)

    def _predict(
        self, latents: Tensor, inputs: LossInputs, label: Tensor | None, text: Tensor | None, present: Tensor | None
    ) -> Prediction:
        inputs = inputs.to(latents.device)
        c_BMD = self.condition(**drop_conditions(self.config, inputs.drop, label, text, present))
        tokens_BNC = patchify(latents, self.config.patch_size)
        z_BKD = self._encode_tokens(tokens_BNC, c_BMD, inputs.visible_ids, inputs.masked_ids)
        x_BKC = gather(tokens_BNC, inputs.masked_ids)
        sigma = (inputs.timestep / NUM_TIMESTEPS).unsqueeze(-1).to(x_BKC.dtype)
        noised = sigma * inputs.noise + (1 - sigma) * x_BKC
        velocity = self.velocity(noised, inputs.timestep, z_BKD)
        return Prediction(z=z_BKD, velocity=velocity, target=inputs.noise - x_BKC)

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
        solver: str = "euler",
        generator: Generator | Sequence[Generator],
    ) -> Tensor:
        """Latent images [B, C, H, W].

        Args:
            label: see `condition`.
            text: see `condition`.
            present: see `condition`.
            batch: see `condition`.
            steps: autoregressive steps K, 1..N.
            flow_steps: steps of the flow's ODE in each autoregressive step.
            guidance: classifier-free guidance scale g at the last step, `v_u + g (v_c - v_u)`; it grows linearly from
                `min_guidance` at the first step. Where both are 1 there is no unconditional pass.
            min_guidance: the scale at the first step.
            solver: of the ODE, euler or heun; see `integrate`.
            generator: on the CPU; samples the orders and the noise. A sequence has one for each image, so that an image
                does not depend on the others of its batch.

        Raises:
            ValueError: a step count out of range, an unknown solver, or guidance of a model without a condition, or
                that never dropped it.
        """
        config = self.config
        guided = guidance != 1.0 or min_guidance != 1.0
        if guided and (misfit := guidance_misfit(config)) is not None:
            raise ValueError(misfit)
        known = step_schedule(config.num_tokens, steps)
        c = self.condition(label=label, text=text, present=present, batch=batch)
        images = len(c)
        order, noise = (tensor.to(c.device) for tensor in sample_generation_inputs(config, images, generator))
        if guided:
            c = torch.cat([c, self.condition(batch=images)])
        tokens = torch.zeros_like(noise)
        times = dict[float, Tensor]()
        for step, (start, stop) in enumerate(pairwise([0, *known])):
            # The last step has the full guidance, also if it is the only one.
            share = step / (len(known) - 1) if len(known) > 1 else 1.0
            scale = min_guidance + (guidance - min_guidance) * share
            visible, ids = order[:, :start], order[:, start:stop]
            copies = 1 if scale == 1.0 else 2
            own = visible.repeat(copies, 1), ids.repeat(copies, 1)
            z = self._encode_tokens(tokens.repeat(copies, 1, 1), c[: copies * images], *own)
            z_embedding = self.flow_head.z_mlp(z)
            velocity = partial(self._guided, z_embedding, scale, times)
            written = integrate(velocity, gather(noise, ids), flow_steps, solver)
            tokens = tokens.scatter(1, ids.unsqueeze(-1).expand_as(written), written)
        return unpatchify(tokens, config.grid, config.patch_size)

    def _guided(
        self, z_embedding: Tensor, guidance: float, times: dict[float, Tensor], x: Tensor, timestep: float
    ) -> Tensor:
        """Velocity of x [B, S, C]; in the embedding of z [B or 2B, S, F] the unconditional half comes second.

        The embeddings of timesteps are kept in `times`: they are the same in each autoregressive step.
        """
        copies = len(z_embedding) // len(x)
        if timestep not in times:
            times[timestep] = self.flow_head.time_embedding(torch.full((1, 1), timestep, device=x.device))
        velocity = self.flow_head.forward_from_embeddings(x.repeat(copies, 1, 1), times[timestep], z_embedding)
        conditional, *unconditional = velocity.float().chunk(copies)
        return unconditional[0] + guidance * (conditional - unconditional[0]) if unconditional else conditional
