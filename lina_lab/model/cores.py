"""Attention cores: pure functions of queries, keys and values (`lina.md` section 2).

Shapes: B batch, H heads, T tokens, E channels of a head.

Linear cores take queries and keys behind the feature map, keys and values behind the gate. Their cost grows with T,
because keys and values are contracted first. The sums run in float32 whatever the autocast.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from lina_lab.registry import Registry

EPSILON = 1e-6
"""Added to division's mapped queries and keys, and to its denominator."""

FEATURE_MAPS: Registry[Callable[[Tensor], Tensor]] = Registry("feature_map")
FEATURE_MAPS.register("relu")(F.relu)


def token_mean(x_BHTE: Tensor) -> Tensor:
    """Mean over the tokens, summed in at least float32: [B, H, 1, E]."""
    precise = torch.promote_types(x_BHTE.dtype, torch.float32)
    return x_BHTE.mean(-2, keepdim=True, dtype=precise).to(x_BHTE.dtype)


LinearCore = Callable[[Tensor, Tensor, Tensor], Tensor]
LINEAR_CORES: Registry[LinearCore] = Registry("normalization")


def softmax(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
    """`softmax(q kᵀ / √E) v`, [B, H, T, E]."""
    return F.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE)


@LINEAR_CORES.register("division")
def division(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
    """`q (kᵀv / T) / (q · mean(k) + 1e-6)`, [B, H, T, E]: each output is a weighted mean of the values."""
    tokens = k_BHTE.shape[-2]
    kv_BHEE = k_BHTE.mT @ v_BHTE / tokens
    k_mean_BHE1 = token_mean(k_BHTE).mT
    return (q_BHTE @ kv_BHEE) / (q_BHTE @ k_mean_BHE1 + EPSILON)


@LINEAR_CORES.register("subtraction")
def subtraction(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
    """`(s/T) q kᵀ v + (1 - s q · mean(k)) mean(v)` with `s = 1/√E`, [B, H, T, E] (InLine attention).

    Weights `s q·k / T` may sum to anything; what is missing to one is spread evenly over the tokens.
    """
    tokens, scale = k_BHTE.shape[-2], q_BHTE.shape[-1] ** -0.5
    kv_BHEE = k_BHTE.mT @ v_BHTE / tokens
    k_mean_BHE1 = token_mean(k_BHTE).mT
    v_mean_BH1E = token_mean(v_BHTE)
    return scale * (q_BHTE @ kv_BHEE) + (1 - scale * (q_BHTE @ k_mean_BHE1)) * v_mean_BH1E
