"""One attention for every variant of the study.

Shapes: B batch, M condition tokens, N image tokens, T = M + N tokens, D width, H heads, E = D / H channels of a head.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from lina_lab.config import AttentionConfig
from lina_lab.model.cores import EPSILON, FEATURE_MAPS, LINEAR_CORES, softmax
from lina_lab.model.gates import GATES
from lina_lab.model.locality import CONVOLUTIONS


class Attention(nn.Module):
    """Projections, core, gate, convolution, output projection: `[B, T, D] -> [B, T, D]` (`lina.md` section 2).

    Without convolution and gate it takes sequences of any length; either ties it to `grid` and `condition_tokens`.

    Args:
        dim: width D.
        num_heads: heads H; divides `dim`.
        config: which variant.
        grid: rows and columns of the image tokens.
        condition_tokens: tokens M in front of the image tokens.

    Raises:
        ValueError: `num_heads` does not divide `dim`.
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
        self.num_heads, self.kind, self.normalization = num_heads, config.kind, config.normalization
        self.shift = EPSILON if config.normalization == "division" else 0.0
        self.feature_map = FEATURE_MAPS[config.feature_map]
        self.core = softmax if config.kind == "softmax" else LINEAR_CORES[config.normalization]
        self.qkv = nn.Linear(dim, 3 * dim)
        tokens = condition_tokens + grid[0] * grid[1]
        self.gate = None if config.gate == "none" else GATES[config.gate](num_heads, tokens)
        self.conv = (
            None
            if config.conv == "none"
            else CONVOLUTIONS[config.conv](dim, config.conv_kernel, grid, condition_tokens)
        )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BTD: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x_BTD), "b t (three h e) -> three b h t e", three=3, h=self.num_heads)
        if self.kind == "linear":
            q, k = self.feature_map(q) + self.shift, self.feature_map(k) + self.shift
        if self.gate is not None:
            k, v = self.gate(k, v)
        o_BTD = rearrange(self.core(q, k, v), "b h t e -> b t (h e)")
        if self.conv is not None:
            image_BND = self.conv(x_BTD)
            condition_BMD, rest_BND = o_BTD.tensor_split([o_BTD.shape[1] - image_BND.shape[1]], dim=1)
            o_BTD = torch.cat([condition_BMD, rest_BND + image_BND], dim=1)
        return self.proj(o_BTD)
