"""Transformer blocks and the three stacks made of them (`lina.md` section 1).

Shapes: B batch, L prefix tokens, M condition tokens, N image tokens, V visible image tokens, D width.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from lina_lab.config import AttentionConfig, LinaConfig
from lina_lab.model.attention import Attention
from lina_lab.model.positions import sincos

MLP_RATIO = 4


class Mlp(nn.Module):
    """Linear, exact GELU, linear; [..., D] to [..., D]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.activation = nn.GELU()
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class Block(nn.Module):
    """`x + LN(attention(x))`, then `x + LN(mlp(x))`: the norm stands behind the branch."""

    def __init__(self, config: LinaConfig, attention: AttentionConfig) -> None:
        super().__init__()
        self.attn = Attention(config.dim, config.num_heads, attention, config.grid, config.condition_tokens)
        self.norm1 = nn.LayerNorm(config.dim)
        self.mlp = Mlp(config.dim)
        self.norm2 = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.norm1(self.attn(x))
        return x + self.norm2(self.mlp(x))


def blocks(config: LinaConfig, attention: AttentionConfig, depth: int) -> nn.Sequential:
    """`depth` blocks with the same attention."""
    return nn.Sequential(*(Block(config, attention) for _ in range(depth)))


class ClassEmbedding(nn.Module):
    """One prefix token from a class; the last row of the table means "no class". The norm is frozen."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.none = num_classes
        self.table = nn.Embedding(num_classes + 1, dim)
        self.norm = nn.LayerNorm(dim).requires_grad_(False)

    def forward(self, label_B: Tensor) -> Tensor:
        return self.norm(self.table(label_B)).unsqueeze(1)


class TimeZero(nn.Module):
    """The constant that every condition token gets: LayerNorm of an MLP of the sinusoid of time 0; frozen."""

    sinusoid: Tensor

    def __init__(self, dim: int, width: int = 256) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.norm = nn.LayerNorm(dim)
        self.requires_grad_(False)
        sinusoid_of_zero = torch.cat([torch.zeros(width // 2), torch.ones(width // 2)])
        self.register_buffer("sinusoid", sinusoid_of_zero, persistent=False)

    def forward(self) -> Tensor:
        return self.norm(self.mlp(self.sinusoid))


class ConditionEncoder(nn.Module):
    """A prefix (a class, or nothing) to M condition tokens on a grid of half the image's side."""

    position: Tensor

    def __init__(self, config: LinaConfig) -> None:
        super().__init__()
        self.start_token = nn.Parameter(torch.zeros(config.dim))
        self.time_zero = TimeZero(config.dim)
        self.register_buffer("position", sincos(config.condition_grid, config.dim), persistent=False)
        attention = config.condition_attention or config.attention.plain()
        self.blocks = blocks(config, attention, config.condition_depth)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, prefix_BLD: Tensor) -> Tensor:
        batch, prefix = prefix_BLD.shape[:2]
        grid_MD = self.start_token + self.time_zero() + self.position
        x = torch.cat([prefix_BLD, grid_MD.expand(batch, -1, -1)], dim=1)
        return self.norm(self.blocks(x))[:, prefix:]


class MaskedAutoencoder(nn.Module):
    """Condition tokens and visible image tokens to a vector z for every image token.

    The encoder sees `[c, visible]` only; the decoder sees `[c, all]`, with the mask token where nothing is known.
    """

    position: Tensor

    def __init__(self, config: LinaConfig) -> None:
        super().__init__()
        self.embed = nn.Linear(config.token_dim, config.dim)
        self.mask_token = nn.Parameter(torch.zeros(config.dim))
        self.register_buffer("position", sincos(config.grid, config.dim), persistent=False)
        self.encoder = blocks(config, config.encoder_attention or config.attention.plain(), config.depth // 2)
        self.decoder = blocks(config, config.attention, config.depth // 2)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, visible_BVC: Tensor, c_BMD: Tensor, visible_ids_BV: Tensor) -> Tensor:
        """visible_BVC: the visible tokens' own numbers, in the order of `visible_ids_BV`; returns z [B, N, D]."""
        batch, condition = c_BMD.shape[:2]
        visible_BVD = self.embed(visible_BVC) + self.position[visible_ids_BV]
        c_BMD, visible_BVD = self.encoder(torch.cat([c_BMD, visible_BVD], dim=1)).split(
            [condition, visible_BVD.shape[1]], dim=1
        )
        masked_BND = (self.mask_token + self.position).to(visible_BVD.dtype).expand(batch, -1, -1)
        ids_BVD = visible_ids_BV.unsqueeze(-1).expand_as(visible_BVD)
        image_BND = masked_BND.scatter(1, ids_BVD, visible_BVD)
        return self.norm(self.decoder(torch.cat([c_BMD, image_BND], dim=1)))[:, condition:]


def patchify(latents: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] to tokens [B, N, p*p*C], in row order; within a token row, column, then channel, the fastest."""
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (p q c)", p=patch, q=patch)


def unpatchify(tokens: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Tokens [B, N, p*p*C] to [B, C, H, W]: the inverse of `patchify`."""
    return rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", h=grid[0], p=patch, q=patch)
