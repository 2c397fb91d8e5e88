"""Gates of attention.

Shapes: B batch, H heads, T tokens, G groups, D width, E channels of a head.

A gate gives weights on tokens, which act after the feature map, or acts on the output before its projection. A gate is
built from a `Geometry`; its entry is in `lina_lab/variants/gates.py`.
"""

from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lina_lab.model.linear import Weights
from lina_lab.variants import Geometry
from lina_lab.variants.gates import MEMORY_GROUPS


class Gate(nn.Module):
    """The base of all gates: leaves tokens and output as they are."""

    def weights(self, x_BTD: Tensor) -> Weights:
        """Weights on the tokens of linear attention, from the input [B, T, D]."""
        return Weights()

    def output(self, x_BTD: Tensor, o_BTD: Tensor) -> Tensor:
        """The output before its projection, [B, T, D]."""
        return o_BTD


def no_gate(geometry: Geometry) -> Gate:
    """gate=none."""
    return Gate()


class PositionGate(Gate):
    """`k <- g_k k`, `v <- g_v v` with learned weights for each head and position that do not depend on the data.

    They start at 1. Their shape holds the number of tokens, and so ties them to the grid.

    Args:
        geometry: gives heads and tokens.
        keys: whether keys have weights.
        values: whether values have weights.
        shared: whether all heads share their weights.
    """

    def __init__(self, geometry: Geometry, *, keys: bool = True, values: bool = True, shared: bool = False) -> None:
        super().__init__()
        shape = (1 if shared else geometry.heads, geometry.tokens, 1)
        self.key_scale = nn.Parameter(torch.ones(shape)) if keys else None
        self.value_scale = nn.Parameter(torch.ones(shape)) if values else None

    def weights(self, x_BTD: Tensor) -> Weights:
        return Weights(key=self.key_scale, normalizer=self.key_scale, value=self.value_scale)


SHARED_POSITION_GATE = partial(PositionGate, shared=True)
KEY_POSITION_GATE = partial(PositionGate, values=False)
VALUE_POSITION_GATE = partial(PositionGate, keys=False)


class DecoupledGate(Gate):
    """As `PositionGate`, with one weight on the keys of the numerator and another on those of the normalizer."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        shape = (geometry.heads, geometry.tokens, 1)
        self.key_scale_gamma = nn.Parameter(torch.ones(shape))
        self.key_scale_tau = nn.Parameter(torch.ones(shape))
        self.value_scale = nn.Parameter(torch.ones(shape))

    def weights(self, x_BTD: Tensor) -> Weights:
        return Weights(key=self.key_scale_gamma, normalizer=self.key_scale_tau, value=self.value_scale)


class DataGate(Gate):
    """`g = sigmoid(W x + b)^(1/16)` for each token and head, on keys and on values (the authors' run diverged)."""

    ROOT = 16

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.key_gate = nn.Linear(geometry.dim, geometry.heads)
        self.value_gate = nn.Linear(geometry.dim, geometry.heads)

    def weights(self, x_BTD: Tensor) -> Weights:
        key, value = (self._weight(gate(x_BTD)) for gate in (self.key_gate, self.value_gate))
        return Weights(key=key, normalizer=key, value=value)

    def _weight(self, logits_BTH: Tensor) -> Tensor:
        # The root through the logarithm: a sigmoid that is 0 in its precision would have an infinite slope.
        root = (F.logsigmoid(logits_BTH.float()) / self.ROOT).exp()
        return rearrange(root, "b t h -> b h t 1").to(logits_BTH.dtype)


class BetaGate(Gate):
    """`k <- sigmoid(W x + b) k` for each token and head, in numerator and normalizer alike.

    Unlike with `DataGate`, values have no weights, so that outputs of division stay weighted means of the values.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.key_gate = nn.Linear(geometry.dim, geometry.heads)

    def weights(self, x_BTD: Tensor) -> Weights:
        key = rearrange(self.key_gate(x_BTD).sigmoid(), "b t h -> b h t 1")
        return Weights(key=key, normalizer=key)


class MemoryGate(Gate):
    """Four contiguous groups of tokens, each with its own `kᵀv`, averaged with weights `softmax(logits)` [H, 4].

    The number of tokens is a multiple of 4, which the entry requires.
    """

    GROUPS = MEMORY_GROUPS

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.gate_logits = nn.Parameter(torch.zeros(geometry.heads, self.GROUPS))

    def weights(self, x_BTD: Tensor) -> Weights:
        # A group's mean product is weighted with its share: the weights go on the keys, G times their share.
        share_HG = self.GROUPS * self.gate_logits.softmax(-1)
        return Weights(key=share_HG.repeat_interleave(x_BTD.shape[1] // self.GROUPS, dim=-1).unsqueeze(-1))


class OutputGate(Gate):
    """`sigmoid(W x) * RMSNorm(o)`, with `RMSNorm(o) = w o / (rms(o) + 1e-6)` over the width."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.output_gate = nn.Linear(geometry.dim, geometry.dim)
        self.rms_norm = Rms(geometry.dim)

    def output(self, x_BTD: Tensor, o_BTD: Tensor) -> Tensor:
        return self.output_gate(x_BTD).sigmoid() * self.rms_norm(o_BTD)


class Rms(nn.Module):
    """`w x / (rms(x) + 1e-6)` over the last axis; epsilon is added outside the root, unlike in `nn.RMSNorm`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        rms = x.float().square().mean(-1, keepdim=True).sqrt()
        return self.weight * (x / (rms + 1e-6).to(x.dtype))
