"""Cores that take a softmax: pure functions of queries, keys and values (`lina.md` section 2).

Shapes: B batch, H heads, T tokens, A mediators, E channels of a head. Linear attention is in `linear.py`.
"""

from einops import rearrange
from torch import Tensor
from torch.nn import functional as F


def softmax(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
    """`softmax(q kᵀ / √E) v`, [B, H, T, E]."""
    return F.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE)


def mediator(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, mediators: int) -> Tensor:
    """`softmax(q mᵀ / √E) softmax(m kᵀ / √E) v`, [B, H, T, E], with m the queries pooled to `mediators` tokens."""
    pooled = F.adaptive_avg_pool1d(rearrange(q_BHTE, "b h t e -> (b h) e t"), mediators)
    m_BHAE = rearrange(pooled, "(b h) e a -> b h a e", b=len(q_BHTE))
    return softmax(q_BHTE, m_BHAE, softmax(m_BHAE, k_BHTE, v_BHTE))
