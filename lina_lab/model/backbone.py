"""Transformer blocks and the three stacks made of them.

Shapes: B batch, L prefix tokens, M condition tokens, N image tokens, V visible image tokens, D width.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lina_lab.config import AttentionConfig, LinaConfig
from lina_lab.model.attention import Attention
from lina_lab.model.conditions import TimeZero
from lina_lab.model.layers import gather
from lina_lab.model.positions import Rotation, axial_rotation, no_rotation, sincos
from lina_lab.variants import POSITIONS, Geometry

MLP_RATIO = 4
RECOMPILATIONS = 64
"""Compiled forms of a block that a process may have: for other stacks, numbers of tokens, with gradients or without."""


class Mlp(nn.Module):
    """Linear, exact GELU, linear; [..., D] to [..., D]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.activation = nn.GELU()
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        if torch.is_grad_enabled():
            return self.fc2(self.activation(hidden))
        return self.fc2(torch.ops.aten.gelu_(hidden))


class Block(nn.Module):
    """Attention and MLP, each a branch with a LayerNorm.

    After: `x + LN(attention(x))`, then `x + LN(mlp(x))`. Before: `x + attention(LN(x))`, then `x + mlp(LN(x))`.
    """

    def __init__(self, config: LinaConfig, attention: AttentionConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_placement == "before"
        self.attn = Attention(config.dim, config.num_heads, attention, config.grid, config.condition_tokens)
        self.norm1 = nn.LayerNorm(config.dim)
        self.mlp = Mlp(config.dim)
        self.norm2 = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, rotation: Rotation | None, read_BK: Tensor | None = None) -> Tensor:
        """Map tokens [B, T, D] to tokens; only those in `read_BK`, [B, K, D], where it says which are read."""
        read = x if read_BK is None else gather(x, read_BK)
        if self.norm_first:
            x = read + self.attn(self.norm1(x), rotation, read_BK)
            return x + self.mlp(self.norm2(x))
        x = read + self.norm1(self.attn(x, rotation, read_BK))
        return x + self.norm2(self.mlp(x))


class Stack(nn.ModuleList):
    """Blocks one after the other, each with its own attention.

    Args:
        config: the model.
        attentions: of the blocks.
        block: makes a block of (config, attention).
    """

    def __init__(
        self,
        config: LinaConfig,
        attentions: Sequence[AttentionConfig],
        block: Callable[[LinaConfig, AttentionConfig], nn.Module] = Block,
    ) -> None:
        super().__init__(block(config, attention) for attention in attentions)
        self.gradient_checkpointing = config.gradient_checkpointing

    def forward(
        self, x: Tensor, rotation: Rotation | None, *condition: Tensor, read_BK: Tensor | None = None
    ) -> Tensor:
        """The tokens after all blocks, [B, T, D], or those that are read, [B, K, D].

        Args:
            x: tokens [B, T, D].
            rotation: of all blocks.
            condition: for blocks that take one.
            read_BK: int64 [B, K], the tokens that are read after the last block, which then computes no others.
        """
        for number, block in enumerate(self, start=1):
            last = (read_BK,) if read_BK is not None and number == len(self) else ()
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, rotation, *condition, *last, use_reentrant=False)
            else:
                x = block(x, rotation, *condition, *last)
        return x


def compile_each(parts: Iterable[nn.Module]) -> None:
    """Have blocks compiled one by one: those that are alike share one compiled form, whatever the depth."""
    for part in parts:
        part.compile(recompile_limit=RECOMPILATIONS)


class Positions(nn.Module):
    """Positions of a grid's tokens: a code that is added to them, a rotation of queries and keys, or neither.

    Built from the `Geometry` of the grid; its entry is in `lina_lab/variants/positions.py`.
    """

    def add(self, x: Tensor) -> Tensor:
        """The tokens of the whole grid [..., N, D] with their code."""
        return x

    def rotation(self, before: int, ids_BT: Tensor | None = None) -> Rotation | None:
        """Rotation of `before` tokens at position 0 and, after them, of the grid's tokens or those in `ids_BT`."""
        return None


class SincosPositions(Positions):
    """The fixed code of sines and cosines is added."""

    code: Tensor

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.register_buffer("code", sincos(geometry.grid, geometry.dim), persistent=False)

    def add(self, x: Tensor) -> Tensor:
        return x + self.code


class RotaryPositions(Positions):
    """Axial rotary positions: queries and keys are rotated."""

    cos: Tensor
    sin: Tensor

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        rotation = axial_rotation(geometry.grid, geometry.head_dim)
        self.register_buffer("cos", rotation.cos, persistent=False)
        self.register_buffer("sin", rotation.sin, persistent=False)

    def rotation(self, before: int, ids_BT: Tensor | None = None) -> Rotation:
        grid = Rotation(self.cos, self.sin)
        return (grid if ids_BT is None else grid.take(ids_BT)).after(no_rotation(before, grid))


class ConditionEncoder(nn.Module):
    """Maps a prefix (a class, a text, or nothing) to M condition tokens on a grid of half the image's side.

    With rotary positions each token is the start token alone: no position and no constant is added to it.
    """

    def __init__(self, config: LinaConfig) -> None:
        super().__init__()
        self.tokens = config.condition_tokens
        self.start_token = nn.Parameter(torch.zeros(config.dim))
        position = POSITIONS[config.position]
        self.time_zero = TimeZero(config.dim) if position.time_zero else None
        # Frozen and unused: the published model has it (for frames of a video) and counts its parameters.
        patch = 2 * config.patch_size
        self.patch_embed = nn.Conv2d(config.latent_channels, config.dim, patch, patch).requires_grad_(False)
        self.positions = position.load()(config.condition_geometry)
        self.blocks = Stack(config, config.condition_blocks)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, prefix_BLD: Tensor) -> Tensor:
        batch, prefix = prefix_BLD.shape[:2]
        start_D = self.start_token if self.time_zero is None else self.start_token + self.time_zero()
        grid_MD = self.positions.add(start_D.expand(self.tokens, -1))
        x = torch.cat([prefix_BLD, grid_MD.expand(batch, -1, -1)], dim=1)
        return self.norm(self.blocks(x, self.positions.rotation(prefix)))[:, prefix:]


class MaskedAutoencoder(nn.Module):
    """Maps condition tokens and visible image tokens to a vector z for every image token.

    The encoder sees `[c, visible]` only; the decoder sees `[c, all]`, with the mask token where nothing is known.
    """

    def __init__(self, config: LinaConfig) -> None:
        super().__init__()
        self.tokens = config.num_tokens
        self.embed = nn.Linear(config.token_dim, config.dim)
        self.mask_token = nn.Parameter(torch.zeros(config.dim))
        self.positions = POSITIONS[config.position].load()(config.image_geometry)
        self.encoder = Stack(config, config.encoder_blocks)
        self.decoder = Stack(config, config.decoder_blocks)
        self.norm = nn.LayerNorm(config.dim)

    def forward(
        self, visible_BVC: Tensor, c_BMD: Tensor, visible_ids_BV: Tensor, read_ids_BK: Tensor | None = None
    ) -> Tensor:
        """The z of the image tokens in `read_ids_BK`, [B, K, D], or of all of them, [B, N, D].

        Args:
            visible_BVC: the visible tokens' own numbers, in the order of `visible_ids_BV`.
            c_BMD: condition tokens.
            visible_ids_BV: which image tokens are visible.
            read_ids_BK: of which image tokens z is wanted; None: of all.
        """
        batch, condition, dim = c_BMD.shape
        ids_BVD = visible_ids_BV.unsqueeze(-1).expand(-1, -1, dim)
        visible_BVD = self.embed(visible_BVC)
        code_ND = self.positions.add(torch.zeros_like(self.mask_token).expand(self.tokens, -1))
        visible_BVD = visible_BVD + code_ND[visible_ids_BV]
        rotation = self.positions.rotation(condition, visible_ids_BV)
        x = self.encoder(torch.cat([c_BMD, visible_BVD], dim=1), rotation)
        c_BMD, visible_BVD = x.split([condition, visible_BVC.shape[1]], dim=1)
        masked_BND = (self.mask_token + code_ND).to(x.dtype).expand(batch, -1, -1)
        image_BND = masked_BND.scatter(1, ids_BVD, visible_BVD)
        if read_ids_BK is None:
            read_ids_BK = torch.arange(self.tokens, device=x.device).expand(batch, -1)
        rotation = self.positions.rotation(condition)
        x = self.decoder(torch.cat([c_BMD, image_BND], dim=1), rotation, read_BK=condition + read_ids_BK)
        return self.norm(x)


def patchify(latents: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] to tokens [B, N, p*p*C], in row order; within a token row, column, then channel, the fastest."""
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (p q c)", p=patch, q=patch)


def unpatchify(tokens: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Tokens [B, N, p*p*C] to [B, C, H, W]: the inverse of `patchify`."""
    return rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", h=grid[0], p=patch, q=patch)
