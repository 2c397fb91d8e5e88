"""Linear attention of the kernels as an operator of PyTorch, with its gradients.

Shapes: B batch, H heads, T tokens, E channels of a head.
"""

from typing import Any

import torch
from torch import Tensor

from lina_lab.kernels import core
from lina_lab.kernels.launch import PROGRAMS, chunks, launch, next_power, plan, strides

EPSILON = 1e-6
"""As `lina_lab.model.linear.EPSILON`."""


class _Work:
    """How one attention is cut into programs.

    Args:
        qkv_3BHTE: queries, keys and values.
        feature_map: its name.
        normalization: its name.
    """

    def __init__(self, qkv_3BHTE: Tensor, feature_map: str, normalization: str) -> None:
        _, self.batch, self.heads, self.tokens, self.channels = qkv_3BHTE.shape
        self.rows, self.dtype = self.batch * self.heads, qkv_3BHTE.dtype
        self.spreads = normalization == "subtraction"
        self.names = {"MAP": feature_map, "SHIFT": 0.0 if self.spreads else EPSILON, "SPREADS": self.spreads}
        self.scale = (self.channels**-0.5 if self.spreads else 1.0) / self.tokens
        """Factor on products of queries and keys, by the number of tokens."""

    def cut(self, *, pull: bool, sums: bool) -> tuple[int, int, dict[str, Any]]:
        """Chunks of a kernel, blocks of tokens in each, and its constants; see `plan`."""
        constants = plan(self.dtype, next_power(max(16, self.channels)), pull=pull, sums=sums)
        programs = PROGRAMS if sums or pull else 2 * PROGRAMS
        count, blocks = chunks(self.tokens, constants["BT"], self.rows, programs)
        return count, blocks, {**self.names, "E": self.channels, **constants}

    def summaries(self, count: int, like: Tensor) -> Tensor:
        """Room for the summary of each chunk, sample and head."""
        return like.new_empty(count, self.rows, self.channels * (self.channels + 2), dtype=torch.float32)


@torch.library.custom_op("lina_lab::linear_attention", mutates_args=())
def linear_attention(
    qkv_3BHTE: Tensor,
    key_value: Tensor | None,
    normalizer: Tensor | None,
    value: Tensor | None,
    feature_map: str,
    normalization: str,
) -> tuple[Tensor, Tensor]:
    """Outputs [B, T, H, E], and the summaries of all tokens [B H, E E + 2 E] that the backward pass needs.

    Args:
        qkv_3BHTE: raw queries, keys and values; the last stride is 1.
        key_value: a gate's weights on the product of keys and values, see `lina_lab.model.linear.Weights`.
        normalizer: its weights on the keys of the normalizer.
        value: its weights on the values of which subtraction takes the mean.
        feature_map: name of the feature map.
        normalization: `division` or `subtraction`.
    """
    work = _Work(qkv_3BHTE, feature_map, normalization)
    q, k, v = qkv_3BHTE
    count, blocks, constants = work.cut(pull=False, sums=True)
    parts = work.summaries(count, qkv_3BHTE)
    gates, all_strides, present = _gates(work, q, key_value, normalizer, value)
    launch(
        core.summarize, (work.rows, count),
        k, v, *gates, parts, work.tokens, blocks, work.heads, work.scale, 1 / work.tokens,
        *q.stride()[:3], *all_strides, **constants, **present,
    )  # fmt: skip
    summary = parts[0] if count == 1 else parts.sum(0)
    out = qkv_3BHTE.new_empty(work.batch, work.tokens, work.heads, work.channels)
    count, blocks, constants = work.cut(pull=False, sums=False)
    launch(
        core.apply, (work.rows, count),
        q, summary, out, work.tokens, blocks, work.heads, *q.stride()[:3], *out.transpose(1, 2).stride()[:3],
        EPSILON=EPSILON, **constants,
    )  # fmt: skip
    return out, summary


@linear_attention.register_fake
def _(
    qkv_3BHTE: Tensor,
    key_value: Tensor | None,
    normalizer: Tensor | None,
    value: Tensor | None,
    feature_map: str,
    normalization: str,
) -> tuple[Tensor, Tensor]:
    _, batch, heads, tokens, channels = qkv_3BHTE.shape
    summary = qkv_3BHTE.new_empty(batch * heads, channels * (channels + 2), dtype=torch.float32)
    return qkv_3BHTE.new_empty(batch, tokens, heads, channels), summary


@torch.library.custom_op("lina_lab::linear_attention_backward", mutates_args=())
def backward(
    grad_BTHE: Tensor,
    qkv_3BHTE: Tensor,
    summary: Tensor,
    key_value: Tensor | None,
    normalizer: Tensor | None,
    value: Tensor | None,
    feature_map: str,
    normalization: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values [B, T, 3, H, E], and of the weights for each token, float32 [B, H, T].

    Where there is no such weight, its gradient has no elements.
    """
    work = _Work(qkv_3BHTE, feature_map, normalization)
    q, k, v = qkv_3BHTE
    grad = grad_BTHE.transpose(1, 2)
    grad_qkv = qkv_3BHTE.new_empty(work.batch, work.tokens, 3, work.heads, work.channels)
    dq, dk, dv = grad_qkv.permute(2, 0, 3, 1, 4)
    count, blocks, constants = work.cut(pull=True, sums=True)
    parts = work.summaries(count, qkv_3BHTE)
    launch(
        core.pull_queries, (work.rows, count),
        q, grad, summary, dq, parts, work.tokens, blocks, work.heads, work.scale, 1 / work.tokens,
        *q.stride()[:3], *grad.stride()[:3], *dq.stride()[:3], EPSILON=EPSILON, **constants,
    )  # fmt: skip
    grad_summary = parts[0] if count == 1 else parts.sum(0)
    weights = key_value, normalizer, value if work.spreads else None
    da, dc, dw = (_room(weight, work, summary) for weight in weights)
    gates, all_strides, present = _gates(work, q, *weights)
    count, blocks, constants = work.cut(pull=True, sums=False)
    launch(
        core.pull_keys, (work.rows, count),
        k, v, *gates, grad_summary, dk, dv, da, dc, dw, work.tokens, blocks, work.heads,
        *q.stride()[:3], *all_strides, *dq.stride()[:3], **constants, **present,
    )  # fmt: skip
    return grad_qkv, da, dc, dw


@backward.register_fake
def _(
    grad_BTHE: Tensor,
    qkv_3BHTE: Tensor,
    summary: Tensor,
    key_value: Tensor | None,
    normalizer: Tensor | None,
    value: Tensor | None,
    feature_map: str,
    normalization: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    work = _Work(qkv_3BHTE, feature_map, normalization)
    da, dc, dw = (_room(w, work, summary) for w in (key_value, normalizer, value if work.spreads else None))
    return qkv_3BHTE.new_empty(work.batch, work.tokens, 3, work.heads, work.channels), da, dc, dw


def _room(weight: Tensor | None, work: _Work, like: Tensor) -> Tensor:
    return like.new_empty((0,) if weight is None else (work.batch, work.heads, work.tokens))


def _gates(work: _Work, q: Tensor, *weights: Tensor | None) -> tuple[list[Tensor], list[int], dict[str, bool]]:
    """The weights or something in their place, their strides, and which there are."""
    shape = work.batch, work.heads, work.tokens
    found = [stride for weight in weights for stride in strides(weight, shape)]
    present = {name: weight is not None for name, weight in zip(("HAS_A", "HAS_C", "HAS_W"), weights, strict=True)}
    return [q if weight is None else weight for weight in weights], found, present


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, key_value, normalizer, value, *ctx.names = inputs
    ctx.save_for_backward(qkv, output[1], key_value, normalizer, value)
    ctx.mark_non_differentiable(output[1])


def _pull(ctx: Any, grad_BTHE: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    qkv, summary, *weights = ctx.saved_tensors
    grad = grad_BTHE if grad_BTHE.stride(-1) == 1 else grad_BTHE.contiguous()
    grad_qkv, *grads = backward(grad, qkv, summary, *weights, *ctx.names)
    return grad_qkv.permute(2, 0, 3, 1, 4), *map(_summed, grads, weights), None, None


def _summed(grad_BHT: Tensor, weight: Tensor | None) -> Tensor | None:
    """The gradient of a weight, summed over what it was broadcast to."""
    if weight is None:
        return None
    if not grad_BHT.numel():
        return torch.zeros_like(weight)
    return grad_BHT.unsqueeze(-1).sum_to_size(weight.shape).to(weight.dtype)


def once_only(ctx: Any, *grads: Tensor) -> None:
    """The backward pass of a backward pass, which there is not.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError("second derivatives of attention need the eager form: unset LINA_KERNELS")


linear_attention.register_autograd(_pull, setup_context=_keep)
backward.register_autograd(once_only)
