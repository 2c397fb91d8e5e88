"""RMS norms inside attention: of queries and keys, and of each head's output.

Each is built from a `Geometry`; its entry is in `lina_lab/variants/norms.py`.

Shapes: B batch, T tokens, D width.
"""

from functools import partial

import torch
from torch import Tensor, nn

from lina_lab.variants import Geometry


class RmsNorm(nn.RMSNorm):
    """`w x / √(mean(x²) + 1e-6)` with a weight for each channel, and means over groups of channels.

    Args:
        dim: channels of the last axis.
        groups: how many groups of adjacent channels there are, such as the heads.
    """

    def __init__(self, dim: int, groups: int = 1) -> None:
        super().__init__(dim, eps=1e-6)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        precise = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (self.groups, -1))  # type: ignore[no-untyped-call]
        normed = precise * (precise.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return normed.flatten(-2).to(x.dtype) * self.weight.to(x.dtype)


class QkNorm(nn.Module):
    """A norm of queries and one of keys, before rotation and feature map; values stay as they are.

    Args:
        geometry: gives width and heads.
        each_head: whether the mean square is that of each head, or of the whole width.
    """

    def __init__(self, geometry: Geometry, *, each_head: bool) -> None:
        super().__init__()
        groups = geometry.heads if each_head else 1
        self.query_norm, self.key_norm = RmsNorm(geometry.dim, groups), RmsNorm(geometry.dim, groups)

    def forward(self, qkv_BT3D: Tensor) -> Tensor:
        """Stacked queries, keys and values [B, T, 3 D], as the projection gives them."""
        q, k, v = qkv_BT3D.chunk(3, -1)
        return torch.cat([self.query_norm(q), self.key_norm(k), v], dim=-1)


WIDTH_QK_NORM, HEAD_QK_NORM = partial(QkNorm, each_head=False), partial(QkNorm, each_head=True)


class HeadNorm(nn.Module):
    """The norm of each head's output, before a convolution is added to it."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.norm = RmsNorm(geometry.dim, geometry.heads)

    def forward(self, x_BTD: Tensor, o_BTD: Tensor) -> Tensor:
        """Map the core's output, heads side by side, to [B, T, D]; `x_BTD` is the attention's input."""
        return self.norm(o_BTD)


class GatedHeadNorm(HeadNorm):
    """`sigmoid(W x + b)` times the norm of each head's output."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self.output_gate = nn.Linear(geometry.dim, geometry.dim)

    def forward(self, x_BTD: Tensor, o_BTD: Tensor) -> Tensor:
        return self.output_gate(x_BTD).sigmoid() * self.norm(o_BTD)


def no_norm(geometry: Geometry) -> None:
    """qk_norm=none and head_norm=none."""
