"""Position encodings of tokens on a grid."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor


def sincos(grid: tuple[int, int], dim: int) -> Tensor:
    """`[sin(col f), cos(col f), sin(row f), cos(row f)]` with `f_i = 10000^(-i/(dim/4))`: [rows * columns, dim]."""
    quarter = dim // 4
    frequency = 10_000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in grid)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    angles = [column.reshape(-1, 1) * frequency, row.reshape(-1, 1) * frequency]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()


def sinusoid(value: Tensor, dim: int = 256) -> Tensor:
    """Timestep embedding `[cos(value f), sin(value f)]` with `f_i = 10000^(-i/(dim/2))`: [...] to [..., dim].

    In float32, or in float64 where the value is.
    """
    half, dtype = dim // 2, torch.promote_types(value.dtype, torch.float32)
    frequency = 10_000.0 ** (-torch.arange(half, dtype=dtype, device=value.device) / half)
    angle = value.to(dtype).unsqueeze(-1) * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


@dataclass(frozen=True)
class Rotation:
    """Cosine and sine for each token and pair of channels: [T, E/2], or [B, T, E/2] where samples differ."""

    cos: Tensor
    sin: Tensor

    def take(self, ids_BT: Tensor) -> "Rotation":
        """The rotations of the tokens in `ids_BT`: [B, T, E/2]."""
        return Rotation(self.cos[ids_BT], self.sin[ids_BT])

    def after(self, other: "Rotation") -> "Rotation":
        """`other`'s tokens, then these."""
        cos, sin = (_join(a, b) for a, b in ((other.cos, self.cos), (other.sin, self.sin)))
        return Rotation(cos, sin)


def _join(a: Tensor, b: Tensor) -> Tensor:
    if b.ndim == 3 and a.ndim == 2:
        a = a.expand(len(b), -1, -1)
    return torch.cat([a, b], dim=-2)


def axial_rotation(grid: tuple[int, int], head_dim: int) -> Rotation:
    """Rotation of a grid's tokens: E/8 channels rotate by frame, half of the rest by row, the other half by column.

    There is one frame, number 0. Adjacent channels are a pair; `f_i = 10000^(-2i/channels)` on each axis.

    Raises:
        ValueError: `head_dim` is not a multiple of 32, so that an axis would have half a pair.
    """
    if head_dim % 32:
        raise ValueError(f"position=rotary needs heads of a multiple of 32 channels, not {head_dim}")
    frame = head_dim // 8
    side = (head_dim - frame) // 2
    rows, columns = (torch.arange(length, dtype=torch.float64) for length in grid)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    angles = [
        position.reshape(-1, 1) * 10_000.0 ** (-torch.arange(0, channels, 2, dtype=torch.float64) / channels)
        for position, channels in ((torch.zeros_like(row), frame), (row, side), (column, side))
    ]
    angle = torch.cat(angles, dim=1)
    return Rotation(angle.cos().float(), angle.sin().float())


def no_rotation(tokens: int, like: Rotation) -> Rotation:
    """Rotation of tokens at position 0: [tokens, E/2]."""
    shape = (tokens, like.cos.shape[-1])
    return Rotation(like.cos.new_ones(shape), like.sin.new_zeros(shape))


def rotate(x_BHTE: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair of adjacent channels by its angle: [B, H, T, E]."""
    cos, sin = (part.unsqueeze(-3).to(x_BHTE.dtype) for part in (rotation.cos, rotation.sin))
    even, odd = rearrange(x_BHTE, "... (pairs two) -> two ... pairs", two=2)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
