"""Attention cores: pure functions of queries, keys and values (`lina.md` section 2).

Shapes: B batch, H heads, T tokens, A mediators, E channels of a head.

Linear cores take queries and keys behind the feature map, keys and values behind the gate. Their cost grows with T,
because keys and values are contracted first. Means over tokens are summed in float32 whatever the autocast; the large
matrix products are left in its precision.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from lina_lab.registry import Registry

EPSILON = 1e-6
"""Added to division's mapped queries and keys, and to its denominator."""
EXP_LIMIT = 10.0
"""exp is flat above this, so that sums of products stay finite in bfloat16's products and float32's sums."""

FEATURE_MAPS: Registry[Callable[[Tensor], Tensor]] = Registry("feature_map")
FEATURE_MAPS.register("relu")(F.relu)
FEATURE_MAPS.register("elu")(lambda x: F.elu(x) + 1)
FEATURE_MAPS.register("identity")(lambda x: x)
FEATURE_MAPS.register("exp")(lambda x: x.clamp(max=EXP_LIMIT).exp())
FEATURE_MAPS.register("leaky_relu")(F.leaky_relu)
FEATURE_MAPS.register("softplus")(F.softplus)
FEATURE_MAPS.register("squared_relu")(lambda x: F.relu(x).square())

Aggregate = Callable[[Tensor, Tensor], Tensor]
"""Keys and values [B, H, T, E] to their mean product [B, H, E, E]."""
LinearCore = Callable[[Tensor, Tensor, Tensor, Tensor, Aggregate], Tensor]
"""Queries, keys, the normaliser's keys, values, and how keys and values are contracted, to outputs [B, H, T, E]."""
LINEAR_CORES: Registry[LinearCore] = Registry("normalization")


def mean_product(k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
    """`kᵀ v / T`: [B, H, E, E]."""
    return k_BHTE.mT @ v_BHTE / k_BHTE.shape[-2]


def softmax(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
    """`softmax(q kᵀ / √E) v`, [B, H, T, E]."""
    return F.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE)


def mediator(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, mediators: int) -> Tensor:
    """`softmax(q mᵀ / √E) softmax(m kᵀ / √E) v`, [B, H, T, E], with m the queries pooled to `mediators` tokens."""
    pooled = F.adaptive_avg_pool1d(rearrange(q_BHTE, "b h t e -> (b h) e t"), mediators)
    m_BHAE = rearrange(pooled, "(b h) e a -> b h a e", b=len(q_BHTE))
    return softmax(q_BHTE, m_BHAE, softmax(m_BHAE, k_BHTE, v_BHTE))


@LINEAR_CORES.register("division")
def division(
    q_BHTE: Tensor, k_BHTE: Tensor, norm_BHTE: Tensor, v_BHTE: Tensor, aggregate: Aggregate = mean_product
) -> Tensor:
    """`q (kᵀv / T) / (q · mean(k) + 1e-6)`, [B, H, T, E]: each output is a weighted mean of the values."""
    numerator = q_BHTE @ aggregate(k_BHTE, v_BHTE)
    return numerator / (q_BHTE @ token_mean(norm_BHTE).mT + EPSILON)


@LINEAR_CORES.register("subtraction")
def subtraction(
    q_BHTE: Tensor, k_BHTE: Tensor, norm_BHTE: Tensor, v_BHTE: Tensor, aggregate: Aggregate = mean_product
) -> Tensor:
    """`(s/T) q kᵀ v + (1 - s q · mean(k)) mean(v)` with `s = 1/√E`, [B, H, T, E] (InLine attention).

    Weights `s q·k / T` may sum to anything; what is missing to one is spread evenly over the tokens.
    """
    q_BHTE = q_BHTE * q_BHTE.shape[-1] ** -0.5
    spread_BHT1 = 1 - q_BHTE @ token_mean(norm_BHTE).mT
    return q_BHTE @ aggregate(k_BHTE, v_BHTE) + spread_BHT1 * token_mean(v_BHTE)


def token_mean(x_BHTE: Tensor) -> Tensor:
    """Mean over the tokens, summed in at least float32: [B, H, 1, E]."""
    precise = torch.promote_types(x_BHTE.dtype, torch.float32)
    return x_BHTE.mean(-2, keepdim=True, dtype=precise).to(x_BHTE.dtype)
