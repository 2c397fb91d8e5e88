"""Position codes of tokens on a grid (`lina.md` section 1)."""

import torch
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
    """Code of a noise level, `[cos(value f), sin(value f)]` with `f_i = 10000^(-i/(dim/2))`: [...] to [..., dim]."""
    half = dim // 2
    frequency = 10_000.0 ** (-torch.arange(half, dtype=torch.float32, device=value.device) / half)
    angle = value.float().unsqueeze(-1) * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)
