"""Weights of one resolution for another.

Sin-cos and rotary positions extend by their formulas. Gates by position are tied to the grid, and are interpolated on
it here; the authors drop them and start again from 1.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from lina_lab.config import LinaConfig
from lina_lab.variants import GATES


def resize(weights: Mapping[str, Tensor], source: LinaConfig, target: LinaConfig) -> dict[str, Tensor]:
    """The state dict of a `LINA(source)` for a `LINA(target)` that differs in its resolution alone.

    Gates by position are interpolated bilinearly, those of the condition tokens on their own grid.

    Raises:
        ValueError: the configurations differ in anything but `latent_size`.
    """
    if replace(source, latent_size=target.latent_size) != target:
        raise ValueError("resize goes from one latent_size to another; the configurations differ in more than that")
    gates = {attention.gate for attention in source.decoder_blocks}
    by_position = {f".gate.{name}" for gate in gates for name in GATES[gate].by_position}
    return {
        name: _resized(value, source, target) if name.endswith(tuple(by_position)) else value
        for name, value in weights.items()
    }


def _resized(scale_HT1: Tensor, source: LinaConfig, target: LinaConfig) -> Tensor:
    parts = scale_HT1.tensor_split([source.condition_tokens], dim=1)
    grids = ((source.condition_grid, target.condition_grid), (source.grid, target.grid))
    return torch.cat([_interpolated(part, *pair) for part, pair in zip(parts, grids, strict=True)], dim=1)


def _interpolated(scale_HT1: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    grid = rearrange(scale_HT1, "h (r c) 1 -> h 1 r c", r=before[0])
    return rearrange(F.interpolate(grid, after, mode="bilinear"), "h 1 r c -> h (r c) 1")
