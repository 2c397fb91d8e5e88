"""Norms inside attention: of queries and keys, and of each head's output.

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


class PowerNorm(nn.Module):
    """Directions of queries to a power that grows with their norm, and keys cubed (as in NaLaFormer, arXiv 2506.21137).

    With the norm |q| of a head's query and signs kept, `q <- (√E q / |q|)^p`, `p = 3 (1/2 + tanh |q|)`, `k <- k³`.
    Division cancels a query's scale, so that without it a longer query attends no more sharply. The factor √E, which
    division cancels too, keeps numbers near one. A query of zeros stays one: `1e-6` is added to its squared norm.

    The paper maps the positive and the negative half of each to channels of their own, rotates mapped numbers in the
    numerator alone, and gates the output: `feature_map=relu` takes the positive half here; see `rotate=numerator`.
    """

    LARGEST = 3.0
    """The power of keys, and λ in the power of queries."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.heads = geometry.heads

    def forward(self, qkv_BT3D: Tensor) -> Tensor:
        """Stacked queries, keys and values [B, T, 3 D], as the projection gives them."""
        q, k, v = qkv_BT3D.chunk(3, -1)
        precise = torch.promote_types(q.dtype, torch.float32)
        q_BTHE = q.to(precise).unflatten(-1, (self.heads, -1))  # type: ignore[no-untyped-call]
        norm = (q_BTHE.square().sum(-1, keepdim=True) + 1e-6).sqrt()
        power = self.LARGEST * (0.5 + norm.tanh())
        unit = q_BTHE * (q_BTHE.shape[-1] ** 0.5 / norm)
        q = (unit.sign() * unit.abs() ** power).flatten(-2).to(q.dtype)
        return torch.cat([q, (k.to(precise) ** 3).to(k.dtype), v], dim=-1)


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
