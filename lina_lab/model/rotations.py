"""What a rotation of positions turns. Each function maps a core, its inputs and the rotation to the core's outputs.

Shapes: B batch, H heads, T tokens, E channels of a head. The entries are in `lina_lab/variants/positions.py`.
"""

from typing import Any

import torch
from torch import Tensor

from lina_lab.model.linear import Weights
from lina_lab.model.positions import Rotation, rotate


def rotate_both(core: Any, qkv_3BHTE: Tensor, weights: Weights, rotation: Rotation) -> Tensor:
    """Raw queries and keys, before the feature map: [B, H, T, E]."""
    q, k, v = qkv_3BHTE
    return core(torch.stack([rotate(q, rotation), rotate(k, rotation), v]), weights)


def rotate_numerator(core: Any, qkv_3BHTE: Tensor, weights: Weights, rotation: Rotation) -> Tensor:
    """Mapped queries and keys, in the numerator alone: the normalizer has them as they are. [B, H, T, E]."""
    return core(qkv_3BHTE, weights, lambda raw, mapped: rotate(mapped, rotation))


def rotate_raw_numerator(core: Any, qkv_3BHTE: Tensor, weights: Weights, rotation: Rotation) -> Tensor:
    """Raw queries and keys in the numerator, which has no feature map; the normalizer has the mapped ones."""
    return core(qkv_3BHTE, weights, lambda raw, mapped: rotate(raw, rotation))
