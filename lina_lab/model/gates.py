"""Gates on keys and values of linear attention (`lina.md` section 2).

Shapes: B batch, H heads, T tokens, E channels of a head.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lina_lab.registry import Registry

GATES: Registry[Callable[[int, int], nn.Module]] = Registry("gate")
"""Makers of a gate for (heads, tokens); its forward maps keys and values to keys and values."""


@GATES.register("kv")
class KVGate(nn.Module):
    """`k <- g_k k`, `v <- g_v v` with learned `g_k, g_v [H, T]` that do not depend on the data, at first 1.

    It acts behind the feature map, so division's normaliser sees the gated keys. The grid's size is in its shape.
    """

    def __init__(self, heads: int, tokens: int) -> None:
        super().__init__()
        self.key_scale = nn.Parameter(torch.ones(heads, tokens, 1))
        self.value_scale = nn.Parameter(torch.ones(heads, tokens, 1))

    def forward(self, k_BHTE: Tensor, v_BHTE: Tensor) -> tuple[Tensor, Tensor]:
        return k_BHTE * self.key_scale, v_BHTE * self.value_scale
