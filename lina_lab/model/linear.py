"""Linear attention: one contraction for every feature map, gate and normalization.

Shapes: B batch, H heads, T tokens, E channels of a head; `qkv_3BHTE` queries, keys and values, raw.

With the normalizer's weights `c` as one more column next to the weighted values, two products give all that is needed:

    summary = k̂ᵀ [a v | c] / T      [E, E + 1]
    q̂ summary = [numerator | normalizer]

The cost grows with T, because keys and values are contracted first. Sums over tokens are those of matrix products:
added up in float32 whatever the autocast, while what is multiplied stays in its precision.

In eager mode the backward pass is written out (`_Contraction`): plain autograd keeps and allocates several times as
much, which costs most of the time on a CPU. Under `torch.compile` the same formulas are left to the compiler. On a GPU
`lina_lab.kernels` computes them where it can.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lina_lab.kernels import takes_attention
from lina_lab.model.feature_maps import FeatureMap

EPSILON = 1e-6
"""Added to division's mapped queries and keys, and to its denominator."""
CACHED = 2**19
"""Numbers of a tensor that a CPU's caches hold well: the backward pass takes so many samples at once there."""


@dataclass(frozen=True)
class Weights:
    """A gate's weights on tokens, each [B or 1, H or 1, T or 1, 1]; None: one."""

    key: Tensor | None = None
    """On the keys in the numerator."""
    normalizer: Tensor | None = None
    """On the keys in the normalizer."""
    value: Tensor | None = None
    """On the values."""

    @property
    def key_value(self) -> Tensor | None:
        """On the product of keys and values."""
        if self.key is None or self.value is None:
            return self.value if self.key is None else self.key
        return self.key * self.value


class Normalization(ABC):
    """How rows of weights are made to sum to one: `[numerator | normalizer]` to outputs, and back."""

    shift: float
    """Added to mapped queries and keys."""
    spreads: bool
    """Whether it takes the mean of the values."""
    kernel: str | None = None
    """Its name in `lina_lab.kernels`; None: there is only the eager form."""

    @abstractmethod
    def scale(self, head_dim: int) -> float:
        """Factor on products of queries and keys."""

    @abstractmethod
    def forward(self, both_BHTF: Tensor, mean_BH1E: Tensor | None, out: Tensor | None = None) -> Tensor:
        """`[numerator | normalizer]`, F = E + 1, and the mean of the values, to outputs [B, H, T, E], put in `out`."""

    @abstractmethod
    def backward(self, grad_BHTE: Tensor, both_BHTF: Tensor, mean_BH1E: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Gradients of `both` and of the mean, from that of the outputs."""


class Division(Normalization):
    """`q̂ (k̂ᵀv / T) / (q̂ · mean(k̂) + 1e-6)`: each output is a weighted mean of the values."""

    shift = EPSILON
    spreads = False
    kernel = "division"

    def scale(self, head_dim: int) -> float:
        return 1.0

    def forward(self, both_BHTF: Tensor, mean_BH1E: Tensor | None, out: Tensor | None = None) -> Tensor:
        return torch.div(both_BHTF[..., :-1], both_BHTF[..., -1:] + EPSILON, out=out)

    def backward(self, grad_BHTE: Tensor, both_BHTF: Tensor, mean_BH1E: Tensor | None) -> tuple[Tensor, None]:
        denominator = both_BHTF[..., -1:] + EPSILON
        grad_both = torch.empty_like(both_BHTF)
        numerator = torch.div(grad_BHTE, denominator, out=grad_both[..., :-1])
        torch.div(_dot(numerator, both_BHTF[..., :-1]).neg_(), denominator, out=grad_both[..., -1:])
        return grad_both, None


class Subtraction(Normalization):
    """`(s/T) q̂ k̂ᵀ v + (1 - s q̂ · mean(k̂)) mean(v)` with `s = 1/√E` (InLine attention).

    Weights `s q̂·k̂ / T` may sum to anything; what is missing to one is spread evenly over the tokens.
    """

    shift = 0.0
    spreads = True
    kernel = "subtraction"

    def scale(self, head_dim: int) -> float:
        return head_dim**-0.5

    def forward(self, both_BHTF: Tensor, mean_BH1E: Tensor | None, out: Tensor | None = None) -> Tensor:
        assert mean_BH1E is not None
        return torch.addcmul(both_BHTF[..., :-1], 1 - both_BHTF[..., -1:], mean_BH1E, out=out)

    def backward(self, grad_BHTE: Tensor, both_BHTF: Tensor, mean_BH1E: Tensor | None) -> tuple[Tensor, Tensor]:
        assert mean_BH1E is not None
        grad_both = torch.empty_like(both_BHTF)
        grad_both[..., :-1] = grad_BHTE
        grad_both[..., -1:] = -_dot(grad_BHTE, mean_BH1E)
        spread = (1 - both_BHTF[..., -1:]) * grad_BHTE
        return grad_both, spread.sum(-2, keepdim=True, dtype=torch.promote_types(spread.dtype, torch.float32)).to(
            mean_BH1E.dtype
        )


DIVISION, SUBTRACTION = Division(), Subtraction()


def linear_attention(
    qkv_3BHTE: Tensor, weights: Weights, feature_map: FeatureMap, normalization: Normalization
) -> Tensor:
    """Outputs [B, H, T, E]; in eager mode, and from kernels, in the memory order of [B, T, H, E]."""
    gates = weights.key_value, weights.normalizer, weights.value
    if normalization.kernel is not None and takes_attention(qkv_3BHTE, feature_map.kernel):
        names = feature_map.kernel, normalization.kernel
        return torch.ops.lina_lab.linear_attention(qkv_3BHTE, *gates, *names)[0].transpose(1, 2)
    form = plain_attention if torch.compiler.is_compiling() else _Contraction.apply
    return form(qkv_3BHTE, feature_map, normalization, *gates)


Numerator = Callable[[Tensor, Tensor], Tensor]
"""(raw, mapped) queries and keys [2, B, H, T, E] -> those of the numerator."""


def over_all_tokens(q_BHTE: Tensor, k_BHTE: Tensor, columns_BHTF: Tensor, scale: float) -> Tensor:
    """`scale q kᵀ columns`, with one summary of all tokens: [B, H, T, F]."""
    return q_BHTE @ ((k_BHTE.mT @ columns_BHTF) * scale)


def plain_attention(
    qkv_3BHTE: Tensor,
    feature_map: FeatureMap,
    normalization: Normalization,
    *weights: Tensor | None,
    contract: Callable[[Tensor, Tensor, Tensor, float], Tensor] = over_all_tokens,
    numerator: Numerator | None = None,
) -> Tensor:
    """`linear_attention` whose backward pass is left to autograd or the compiler.

    Args:
        qkv_3BHTE: raw queries, keys and values.
        feature_map: of queries and keys.
        normalization: of the rows of weights.
        weights: a gate's, on key times value, on the normalizer's keys and on the values.
        contract: how queries meet keys, see `over_all_tokens`.
        numerator: where the numerator has other queries and keys than the normalizer.
    """
    key_value, normalizer, value = weights
    q, k = mapped = feature_map.value(qkv_3BHTE[:2]) + normalization.shift
    v, (tokens, channels) = qkv_3BHTE[2], qkv_3BHTE.shape[-2:]
    scale = normalization.scale(channels) / tokens
    weighted = v if key_value is None else (v * key_value).to(v.dtype)
    last = v.new_ones(()) if normalizer is None else normalizer.to(v.dtype)
    last = last.expand(*v.shape[:-1], 1)
    if numerator is None:
        both = contract(q, k, torch.cat([weighted, last], dim=-1), scale)
    else:
        own_q, own_k = numerator(qkv_3BHTE[:2], mapped)
        both = torch.cat([contract(own_q, own_k, weighted, scale), contract(q, k, last, scale)], dim=-1)
    mean = _token_mean(v, value) if normalization.spreads else None
    return normalization.forward(both, mean)


class _Contraction(torch.autograd.Function):
    """`plain_attention` with its backward pass written out."""

    @staticmethod
    def forward(
        ctx: Any, qkv_3BHTE: Tensor, feature_map: FeatureMap, normalization: Normalization, *weights: Tensor | None
    ) -> Tensor:
        key_value, normalizer, value = weights
        _, batch, heads, tokens, channels = qkv_3BHTE.shape
        v = qkv_3BHTE[2]
        mapped = _mapped(qkv_3BHTE[:2], feature_map, normalization.shift)
        columns = v.new_empty(batch, heads, tokens, channels + 1)
        _times(v, key_value, out=columns[..., :-1])
        columns[..., -1:] = 1 if normalizer is None else normalizer
        q, k = mapped.flatten(1, 2)
        summary = _product(k.mT, columns.flatten(0, 1), normalization.scale(channels) / tokens)
        both = torch.bmm(q, summary).view_as(columns)
        summary = summary.view(batch, heads, channels, channels + 1)
        mean = _token_mean(v, value) if normalization.spreads else None
        output = v.new_empty(batch, tokens, heads, channels).transpose(1, 2)
        normalization.forward(both, mean, out=output)
        ctx.feature_map, ctx.normalization = feature_map, normalization
        ctx.save_for_backward(qkv_3BHTE, mapped, columns, summary, both, mean, *weights)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BHTE: Tensor) -> tuple[Tensor | None, ...]:
        qkv_3BHTE, *_, key_value, normalizer, value = saved = ctx.saved_tensors
        grad_qkv = torch.empty_like(qkv_3BHTE)
        grads = [None if weight is None else torch.zeros_like(weight) for weight in (key_value, normalizer, value)]
        batch, on_cpu = len(grad_BHTE), grad_BHTE.device.type == "cpu"
        samples = max(1, CACHED // grad_BHTE[0].numel()) if on_cpu else batch
        for start in range(0, batch, samples):
            _pull(ctx, saved, slice(start, start + samples), grad_BHTE, grad_qkv, grads)
        return grad_qkv, None, None, *grads


def _of_part(weight: Tensor | None, part: slice, batch: int) -> Tensor | None:
    """The weights of a part of the samples; weights that all samples share are returned whole."""
    return weight[part] if weight is not None and weight.ndim == 4 and len(weight) == batch else weight


def _pull(
    ctx: Any, saved: tuple[Any, ...], part: slice, grad_BHTE: Tensor, grad_qkv: Tensor, grads: list[Tensor | None]
) -> None:
    """For some samples, put the gradient of `qkv` into `grad_qkv`, and add those of the weights to `grads`."""
    feature_map, normalization = ctx.feature_map, ctx.normalization
    qkv_3BHTE, mapped, columns, summary, both, *rest = saved
    v, both, grad_qkv = qkv_3BHTE[2, part], both[part], grad_qkv[:, part]
    mean, key_value, _, value = (_of_part(tensor, part, len(grad_BHTE)) for tensor in rest)
    grads = [_of_part(grad, part, len(grad_BHTE)) for grad in grads]
    tokens, channels = v.shape[-2:]
    q, k, columns, summary = (tensor.flatten(0, 1) for tensor in (*mapped[:, part], columns[part], summary[part]))
    grad_both, grad_mean = normalization.backward(grad_BHTE[part], both, mean)
    grad_both = grad_both.flatten(0, 1)
    grad_summary = _product(q.mT, grad_both, normalization.scale(channels) / tokens)
    buffer = torch.bmm(grad_both, summary.mT)
    grad_qkv[0] = feature_map.pull(buffer, q, normalization.shift).view_as(v)
    torch.bmm(columns, grad_summary.mT, out=buffer)
    grad_qkv[1] = feature_map.pull(buffer, k, normalization.shift).view_as(v)
    grad_columns = torch.bmm(k, grad_summary, out=grad_both).view_as(both)
    _times(grad_columns[..., :-1], key_value, out=grad_qkv[2])
    _add(grads[0], lambda: _dot(grad_columns[..., :-1], v))
    _add(grads[1], lambda: grad_columns[..., -1:])
    if grad_mean is not None:
        grad_v = grad_mean / tokens
        grad_qkv[2] += grad_v if value is None else grad_v * value
        _add(grads[2], lambda: _dot(grad_v, v))


def _add(total: Tensor | None, grad: Callable[[], Tensor]) -> None:
    """Add a weight's gradient, summed over what it was broadcast to, unless there is no such weight."""
    if total is not None:
        total += grad().to(total.dtype).sum_to_size(total.shape)


def _mapped(x: Tensor, feature_map: FeatureMap, shift: float) -> Tensor:
    copy = x.clone(memory_format=torch.contiguous_format)
    y = feature_map.value(copy) if feature_map.overwrite is None else feature_map.overwrite(copy)
    return y.add_(shift)


def _times(x: Tensor, weight: Tensor | None, out: Tensor) -> None:
    """Put the product into `out`, in its precision."""
    if weight is None:
        out.copy_(x)
    else:
        torch.mul(x, weight, out=out)


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """`scale a b` of batches of matrices, scaled before it is rounded."""
    return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=scale)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the products over the channels, at least in float32: [..., 1]."""
    return (a * b).sum(-1, keepdim=True, dtype=torch.promote_types(a.dtype, torch.float32))


def _token_mean(v_BHTE: Tensor, weight: Tensor | None) -> Tensor:
    """Mean over the tokens, summed in at least float32: [B, H, 1, E]."""
    precise = torch.promote_types(v_BHTE.dtype, torch.float32)
    weighted = v_BHTE if weight is None else v_BHTE * weight
    return weighted.mean(-2, keepdim=True, dtype=precise).to(v_BHTE.dtype)
