"""Linear attention with a summary for each block of tokens (as in MHLA, arXiv 2601.07832).

Shapes: B batch, H heads, T tokens, G blocks, L tokens of the largest block, E channels of a head, F columns.
"""

from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lina_lab.config import AttentionConfig
from lina_lab.model.linear import Numerator, Weights, plain_attention
from lina_lab.variants import FEATURE_MAPS, NORMALIZATIONS, Geometry
from lina_lab.variants.cores import block_groups, tiling


class BlockCore(nn.Module):
    """Queries of block a see `Σ_b m_ab Σ_{j in b} k̂_j [a_j v_j | c_j] / T`, with `m = G softmax(logits)` [H, G, G].

    The image's tokens are tiles of the grid, and the condition tokens, if there are any, are a block of their own.
    Numerator and normalizer have the same weights, so rows of weights sum to one under each normalization. All start at
    1, as linear attention, and stay positive. With equal rows and contiguous blocks they are the weights on keys of
    `gate=memory`, which has them on the numerator alone.
    """

    index: Tensor
    place: Tensor

    def __init__(self, config: AttentionConfig, geometry: Geometry) -> None:
        super().__init__()
        self.feature_map = FEATURE_MAPS[config.feature_map].load()
        self.normalization = NORMALIZATIONS[config.normalization].load()
        self.condition_tokens, self.blocks = geometry.condition_tokens, geometry.blocks
        groups = block_groups(geometry)
        self.logits = nn.Parameter(torch.zeros(geometry.heads, groups, groups))
        index = tiles(geometry.grid, geometry.blocks)
        self.filled = index.numel() > geometry.image_tokens
        self.register_buffer("index", index.flatten(), persistent=False)
        self.register_buffer("place", index.flatten().argsort()[: geometry.image_tokens], persistent=False)

    def forward(self, qkv_3BHTE: Tensor, weights: Weights, numerator: Numerator | None = None) -> Tensor:
        """Outputs [B, H, T, E] under a gate's weights on the tokens."""
        gates = weights.key_value, weights.normalizer, weights.value
        mixing = len(self.logits[0]) * self.logits.softmax(-1)
        contract = partial(self._contract, mixing)
        return plain_attention(
            qkv_3BHTE, self.feature_map, self.normalization, *gates, contract=contract, numerator=numerator
        )

    def _contract(
        self, mixing_HGG: Tensor, q_BHTE: Tensor, k_BHTE: Tensor, columns_BHTF: Tensor, scale: float
    ) -> Tensor:
        q, k, columns = (self._parts(x) for x in (q_BHTE, k_BHTE, columns_BHTF))
        summaries = torch.cat([a.mT @ b for a, b in zip(k, columns, strict=True)], dim=2)
        mixed = ((scale * mixing_HGG).to(summaries.dtype) @ summaries.flatten(3)).view_as(summaries)
        seen = torch.split(mixed, [part.shape[2] for part in q], dim=2)
        out = [(a @ b).flatten(2, 3) for a, b in zip(q, seen, strict=True)]
        out[-1] = out[-1].index_select(2, self.place)
        return torch.cat(out, dim=2)

    def _parts(self, x_BHTF: Tensor) -> list[Tensor]:
        """The condition's block, if there is one, and the image's, filled up with zeros: each [B, H, G, L, F]."""
        image = x_BHTF[:, :, self.condition_tokens :]
        if self.filled:
            image = F.pad(image, (0, 0, 0, 1))
        found = [rearrange(image.index_select(2, self.index), "b h (g l) f -> b h g l f", g=self.blocks)]
        return [x_BHTF[:, :, None, : self.condition_tokens], *found] if self.condition_tokens else found


def tiles(grid: tuple[int, int], blocks: int) -> Tensor:
    """Numbers of the image tokens of each block, [G, L]; a smaller block is filled up with N, the number after all."""
    counts = tiling(grid, blocks)
    assert counts is not None  # the entry requires it
    numbers = torch.arange(grid[0] * grid[1]).reshape(grid)
    found = [part.flatten() for rows in numbers.tensor_split(counts[0]) for part in rows.tensor_split(counts[1], dim=1)]
    return nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=numbers.numel())
