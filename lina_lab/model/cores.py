"""Cores of attention: what mixes the tokens.

A core is built from (AttentionConfig, Geometry) and maps stacked queries, keys and values [3, B, H, T, E], and a gate's
weights on the tokens, to outputs [B, H, T, E].

Shapes: B batch, H heads, T tokens, A mediators, E channels of a head.
"""

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lina_lab.config import AttentionConfig
from lina_lab.model.linear import Numerator, Weights, linear_attention, plain_attention
from lina_lab.variants import FEATURE_MAPS, NORMALIZATIONS, Geometry


class LinearCore(nn.Module):
    """Kernel-based linear attention, see `lina_lab.model.linear`."""

    def __init__(self, config: AttentionConfig, geometry: Geometry) -> None:
        super().__init__()
        self.feature_map = FEATURE_MAPS[config.feature_map].load()
        self.normalization = NORMALIZATIONS[config.normalization].load()

    def forward(self, qkv_3BHTE: Tensor, weights: Weights, numerator: Numerator | None = None) -> Tensor:
        """Outputs [B, H, T, E] under a gate's weights on the tokens."""
        if numerator is None:
            return linear_attention(qkv_3BHTE, weights, self.feature_map, self.normalization)
        gates = weights.key_value, weights.normalizer, weights.value
        return plain_attention(qkv_3BHTE, self.feature_map, self.normalization, *gates, numerator=numerator)


class SoftmaxCore(nn.Module):
    """Softmax attention; takes no weights on tokens."""

    def __init__(self, config: AttentionConfig, geometry: Geometry) -> None:
        super().__init__()

    def forward(self, qkv_3BHTE: Tensor, weights: Weights) -> Tensor:
        """Outputs [B, H, T, E]."""
        return softmax(*qkv_3BHTE)


class MediatorCore(nn.Module):
    """Agent attention (arXiv 2312.08874, without its bias and convolution); takes no weights on tokens."""

    def __init__(self, config: AttentionConfig, geometry: Geometry) -> None:
        super().__init__()
        self.mediators = config.mediators

    def forward(self, qkv_3BHTE: Tensor, weights: Weights) -> Tensor:
        """Outputs [B, H, T, E]."""
        q_BHTE, k_BHTE, v_BHTE = qkv_3BHTE
        return mediator(q_BHTE, k_BHTE, v_BHTE, self.mediators)


def softmax(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
    """`softmax(q kᵀ / √E) v`, [B, H, T, E]."""
    return F.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE)


def mediator(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, mediators: int) -> Tensor:
    """`softmax(q mᵀ / √E) softmax(m kᵀ / √E) v`, [B, H, T, E], with m the queries pooled to `mediators` tokens."""
    pooled = F.adaptive_avg_pool1d(rearrange(q_BHTE, "b h t e -> (b h) e t"), mediators)
    m_BHAE = rearrange(pooled, "(b h) e a -> b h a e", b=len(q_BHTE))
    return softmax(q_BHTE, m_BHAE, softmax(m_BHAE, k_BHTE, v_BHTE))
