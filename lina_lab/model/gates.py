"""Gates of attention (`lina.md` section 2).

Shapes: B batch, H heads, T tokens, G groups, D width, E channels of a head.

A gate gives weights on tokens, behind the feature map, or acts on the output before its projection. Either leaves
things as they are unless a gate says otherwise.
"""

from collections.abc import Callable
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lina_lab.model.linear import Weights
from lina_lab.util.registry import Registry


class Gate(nn.Module):
    """No gate."""

    def weights(self, x_BTD: Tensor) -> Weights:
        """Weights on the tokens of linear attention."""
        return Weights()

    def output(self, x_BTD: Tensor, o_BTD: Tensor) -> Tensor:
        """The output before its projection."""
        return o_BTD


GATES: Registry[Callable[[int, int, int], Gate]] = Registry("gate")
"""Makers of a gate for (dim, heads, tokens)."""


BY_POSITION = ("key_scale", "value_scale", "key_scale_gamma", "key_scale_tau")
"""Names of the parameters that hold a weight for each token."""


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

    def weights(self, x_BTD: Tensor) -> Weights:
        return Weights(key=self.key_scale, normaliser=self.key_scale, value=self.value_scale)


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

    def weights(self, x_BTD: Tensor) -> Weights:
        return Weights(key=self.key_scale_gamma, normaliser=self.key_scale_tau, value=self.value_scale)


@GATES.register("kv_data")
class DataGate(Gate):
    """`g = sigmoid(W x + b)^(1/16)` for each token and head, on keys and on values (the authors' run diverged)."""

    ROOT = 16

    def __init__(self, dim: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.key_gate = nn.Linear(dim, heads)
        self.value_gate = nn.Linear(dim, heads)

    def weights(self, x_BTD: Tensor) -> Weights:
        key, value = (self._weight(gate(x_BTD)) for gate in (self.key_gate, self.value_gate))
        return Weights(key=key, normaliser=key, value=value)

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

    def weights(self, x_BTD: Tensor) -> Weights:
        # A group's mean product enters with its share: the weights go on the keys, G times their share.
        share_HG = self.GROUPS * self.gate_logits.softmax(-1)
        return Weights(key=share_HG.repeat_interleave(x_BTD.shape[1] // self.GROUPS, dim=-1).unsqueeze(-1))


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
