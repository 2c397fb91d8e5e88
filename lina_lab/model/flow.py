"""Flow matching: timesteps, the flow head and its ODE.

A token x and noise e make `x_σ = σ e + (1 - σ) x`, whose velocity in σ is `e - x`. Timesteps are `t = 1000 σ`.

Shapes: any leading axes; C numbers of a token, D width of z, F width of the head.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lina_lab.model.layers import ADALN_EPS, AdaLNModulation, TwoLayer, ZeroLinear, modulate
from lina_lab.model.modulated import modulated_branch
from lina_lab.model.positions import sinusoid
from lina_lab.model.schedule import SOLVERS

NUM_TIMESTEPS = 1000
SIGMA_MIN = 1 / NUM_TIMESTEPS
SINUSOID_DIM = 256


def sample_logit_normal_timesteps(uniform: Tensor) -> Tensor:
    """Map uniform numbers in [0, 1) to logit-normal timesteps t in 1..1000; int64, same shape (arXiv 2403.03206)."""
    # The ends of the unit interval would become infinite: numbers stay half a float32 step away from them.
    edge = 2.0**-25
    sigma = torch.special.ndtri(uniform.double().clamp(edge, 1 - edge)).sigmoid()
    return (sigma * NUM_TIMESTEPS).floor().long().clamp(max=NUM_TIMESTEPS - 1) + 1


class FlowBlock(nn.Module):
    """AdaLN-Zero around an MLP, see `modulated`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.modulation = AdaLNModulation(dim, 3)
        self.mlp = TwoLayer(dim, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, active: Tensor) -> Tensor:
        return modulated_branch(x, active, self.modulation.proj, self.mlp, self.norm2)


class FlowHead(nn.Module):
    """Velocity of one noised token from its timestep and its z: an MLP that sees no other token."""

    time_codes: Tensor

    def __init__(self, token_dim: int, dim: int, flow_dim: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(token_dim, flow_dim)
        self.time_mlp = TwoLayer(SINUSOID_DIM, flow_dim)
        self.register_buffer("time_codes", sinusoid(torch.arange(NUM_TIMESTEPS + 1), SINUSOID_DIM), persistent=False)
        self.z_mlp = TwoLayer(dim, flow_dim)
        self.blocks = nn.ModuleList(FlowBlock(flow_dim) for _ in range(depth))
        self.modulation = AdaLNModulation(flow_dim, 2)
        self.norm = nn.LayerNorm(flow_dim, eps=ADALN_EPS, elementwise_affine=False)
        self.head = ZeroLinear(flow_dim, token_dim)

    def forward(self, noised: Tensor, timestep: Tensor, z: Tensor) -> Tensor:
        """The velocity [..., C].

        Leading axes broadcast, so that what noised tokens have in common is computed once.

        Args:
            noised: noised tokens [..., C].
            timestep: `1000 σ`, [...].
            z: the decoder's vectors [..., D].
        """
        return self.forward_from_embeddings(noised, self.time_embedding(timestep), self.z_mlp(z))

    def time_embedding(self, timestep: Tensor) -> Tensor:
        """The embeddings of timesteps: [...] to [..., F]. Of many whole ones, each is computed once."""
        if timestep.is_floating_point():
            return self.time_mlp(sinusoid(timestep, SINUSOID_DIM).to(self.time_codes.dtype))
        if timestep.numel() > len(self.time_codes):
            return F.embedding(timestep, self.time_mlp(self.time_codes))
        return self.time_mlp(self.time_codes[timestep])

    def forward_from_embeddings(self, noised: Tensor, time_embedding: Tensor, z_embedding: Tensor) -> Tensor:
        """The velocity [..., C] from the embeddings of timesteps and of z, [..., F] each."""
        x = self.embed(noised)
        active = F.silu(time_embedding + z_embedding)
        for block in self.blocks:
            x = block(x, active)
        return self.head(modulate(self.norm(x), *self.modulation(active)))


def integrate(velocity: Callable[[Tensor, float], Tensor], noise: Tensor, steps: int, solver: str = "euler") -> Tensor:
    """Solve the flow's ODE from noise at σ = 1 to a token at σ = 0.

    σ runs through `steps` equal points from 1 to 0.001, then to 0. Heun's method averages the velocities at both ends
    of a step, but in the last one, which is Euler's: `velocity_calls` says how often it calls `velocity`.

    Args:
        velocity: maps (noised tokens, timestep = 1000 σ) to velocities of the same shape.
        noise: tokens at σ = 1.
        steps: at least 1.
        solver: euler or heun.

    Raises:
        ValueError: no step, or no such solver.
    """
    if steps < 1:
        raise ValueError(f"flow_steps={steps} must be at least 1")
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver} must be {' or '.join(SOLVERS)}")
    sigmas = [*torch.linspace(1, SIGMA_MIN, steps, dtype=torch.float64).tolist(), 0.0]
    x = noise
    for sigma, following in pairwise(sigmas):
        slope = velocity(x, NUM_TIMESTEPS * sigma)
        if solver == "heun" and following > 0:
            slope = (slope + velocity(x + (following - sigma) * slope, NUM_TIMESTEPS * following)) / 2
        x = x + (following - sigma) * slope
    return x
