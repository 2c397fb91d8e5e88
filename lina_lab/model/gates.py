"""Gates of attention (`lina.md` section 2).

Shapes: B batch, H heads, T tokens, G groups, D width, E channels of a head.

A gate acts in up to three places, each of which leaves things as they are unless a gate says otherwise: on keys and
values behind the feature map, on their contraction, on the output before its projection.
"""

from collections.abc import Callable
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lina_lab.model.cores import mean_product
from lina_lab.registry import Registry


class Gate(nn.Module):
    """No gate."""

    def keys_values(self, x_BTD: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The keys, the keys that the normaliser sees, the values."""
        return k_BHTE, k_BHTE, v_BHTE

    def aggregate(self, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
        """The mean product of keys and values: [B, H, E, E]."""
        return mean_product(k_BHTE, v_BHTE)

    def output(self, x_BTD: Tensor, o_BTD: Tensor) -> Tensor:
        """The output before its projection."""
        return o_BTD


GATES: Registry[Callable[[int, int, int], Gate]] = Registry("gate")
"""Makers of a gate for (dim, heads, tokens)."""


class PositionGate(Gate):
    """`k <- g_k k`, `v <- g_v v` with learned weights for each head and position that do not depend on the data.

    They are 1 at first. The grid's size is in their shape.

    Args:
        dim: width; of no influence.
        heads: heads H.
        tokens: tokens T.
        keys, values: whether there are weights on them.
        shared: one weight for all heads.
    """

    def __init__(
        self, dim: int, heads: int, tokens: int, *, keys: bool = True, values: bool = True, shared: bool = False
    ) -> None:
        super().__init__()
        shape = (1 if shared else heads, tokens, 1)
        self.key_scale = nn.Parameter(torch.ones(shape)) if keys else None
        self.value_scale = nn.Parameter(torch.ones(shape)) if values else None

    def keys_values(self, x_BTD: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k_BHTE = k_BHTE if self.key_scale is None else k_BHTE * self.key_scale
        v_BHTE = v_BHTE if self.value_scale is None else v_BHTE * self.value_scale
        return k_BHTE, k_BHTE, v_BHTE


GATES.register("kv")(PositionGate)
GATES.register("kv_shared")(partial(PositionGate, shared=True))
GATES.register("key")(partial(PositionGate, values=False))
GATES.register("value")(partial(PositionGate, keys=False))


@GATES.register("kv_decoupled")
class DecoupledGate(Gate):
    """As `kv`, with one weight on the keys of the numerator and another on those of the normaliser."""

    def __init__(self, dim: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.key_scale_gamma = nn.Parameter(torch.ones(heads, tokens, 1))
        self.key_scale_tau = nn.Parameter(torch.ones(heads, tokens, 1))
        self.value_scale = nn.Parameter(torch.ones(heads, tokens, 1))

    def keys_values(self, x_BTD: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return k_BHTE * self.key_scale_gamma, k_BHTE * self.key_scale_tau, v_BHTE * self.value_scale


@GATES.register("kv_data")
class DataGate(Gate):
    """`g = sigmoid(W x + b)^(1/16)` for each token and head, on keys and on values (the authors' run diverged)."""

    ROOT = 16

    def __init__(self, dim: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.key_gate = nn.Linear(dim, heads)
        self.value_gate = nn.Linear(dim, heads)

    def keys_values(self, x_BTD: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        key_BHT1, value_BHT1 = (self._weight(gate(x_BTD)) for gate in (self.key_gate, self.value_gate))
        k_BHTE = k_BHTE * key_BHT1
        return k_BHTE, k_BHTE, v_BHTE * value_BHT1

    def _weight(self, logits_BTH: Tensor) -> Tensor:
        # The root through the logarithm: a sigmoid that is 0 in its precision would have an infinite slope.
        root = (F.logsigmoid(logits_BTH.float()) / self.ROOT).exp()
        return rearrange(root, "b t h -> b h t 1").to(logits_BTH.dtype)


@GATES.register("memory")
class MemoryGate(Gate):
    """The sequence in 4 contiguous groups, each with its own `kᵀv`, averaged with weights `softmax(logits)` [H, 4]."""

    GROUPS = 4

    def __init__(self, dim: int, heads: int, tokens: int) -> None:
        super().__init__()
        if tokens % self.GROUPS:
            raise ValueError(f"gate=memory needs a multiple of {self.GROUPS} tokens, not {tokens}")
        self.gate_logits = nn.Parameter(torch.zeros(heads, self.GROUPS))

    def aggregate(self, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
        # A group's mean product enters with its weight: the weights go on the keys, G times their share.
        size = k_BHTE.shape[-2] // self.GROUPS
        weight_HG = self.GROUPS * self.gate_logits.softmax(-1)
        weight_HT1 = weight_HG.repeat_interleave(size, dim=-1).unsqueeze(-1)
        return mean_product(k_BHTE * weight_HT1, v_BHTE)


@GATES.register("output")
class OutputGate(Gate):
    """`sigmoid(W x) * RMSNorm(o)`, with `RMSNorm(o) = w o / (rms(o) + 1e-6)` over the width."""

    def __init__(self, dim: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.output_gate = nn.Linear(dim, dim)
        self.rms_norm = Rms(dim)

    def output(self, x_BTD: Tensor, o_BTD: Tensor) -> Tensor:
        return self.output_gate(x_BTD).sigmoid() * self.rms_norm(o_BTD)


class Rms(nn.Module):
    """`w x / (rms(x) + 1e-6)` over the last axis; the guard stands outside the root, unlike in `nn.RMSNorm`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        rms = x.float().square().mean(-1, keepdim=True).sqrt()
        return self.weight * (x / (rms + 1e-6).to(x.dtype))
