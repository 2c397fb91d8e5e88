"""One attention for every variant of the study.

Shapes: B batch, M condition tokens, N image tokens, T = M + N tokens, D width, H heads, E = D / H channels of a head.
"""

from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from lina_lab.config import AttentionConfig
from lina_lab.model.cores import mediator, softmax
from lina_lab.model.gates import GATES, Gate
from lina_lab.model.linear import FEATURE_MAPS, NORMALIZATIONS, linear_attention
from lina_lab.model.locality import CONVOLUTIONS, Geometry
from lina_lab.model.positions import Rotation, rotate


class Attention(nn.Module):
    """Projections, core, gate, convolution, output projection: `[B, T, D] -> [B, T, D]` (`lina.md` section 2).

    A variant that is not `config.tied_to_grid` takes sequences of any length; any other, all condition and image
    tokens in their order.

    Args:
        dim: width D.
        num_heads: heads H; divides `dim`.
        config: which variant.
        grid: rows and columns of the image tokens.
        condition_tokens: tokens M in front of the image tokens.

    Raises:
        ValueError: `num_heads` does not divide `dim`, or gate=memory has no multiple of 4 tokens.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        config: AttentionConfig,
        grid: tuple[int, int] = (16, 16),
        condition_tokens: int = 64,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim={dim} is not a multiple of num_heads={num_heads}")
        self.num_heads, self.config = num_heads, config
        self.feature_map, self.normalization = FEATURE_MAPS[config.feature_map], NORMALIZATIONS[config.normalization]
        self.softmax_core = softmax if config.kind == "softmax" else partial(mediator, mediators=config.mediators)
        self.qkv = nn.Linear(dim, 3 * dim)
        tokens = condition_tokens + grid[0] * grid[1]
        self.gate = Gate() if config.gate == "none" else GATES[config.gate](dim, num_heads, tokens)
        geometry = Geometry(dim, num_heads, config.conv_kernel, grid, condition_tokens)
        self.conv = None if config.conv == "none" else CONVOLUTIONS[config.conv](geometry)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BTD: Tensor, rotation: Rotation | None = None) -> Tensor:
        """`rotation`: of queries and keys, before the feature map; None where positions are added to the tokens."""
        qkv_BT3D = self.qkv(x_BTD)
        qkv = rearrange(qkv_BT3D, "b t (three h e) -> three b h t e", three=3, h=self.num_heads)
        if rotation is not None:
            qkv = torch.stack([rotate(qkv[0], rotation), rotate(qkv[1], rotation), qkv[2]])
        if self.config.kind == "linear":
            o = linear_attention(qkv, self.gate.weights(x_BTD), self.feature_map, self.normalization)
        else:
            o = self.softmax_core(*qkv)
        o_BTD = rearrange(o, "b h t e -> b t (h e)")
        if self.conv is not None:
            o_BTD = self.conv(x_BTD, qkv_BT3D[..., -x_BTD.shape[-1] :]).add_(o_BTD)
        return self.proj(self.gate.output(x_BTD, o_BTD))
