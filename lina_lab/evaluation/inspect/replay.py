"""A core of attention run again, in float64, on what it got in a model's forward pass.

A core's outputs are linear in the values. So its response to unit values is its attention matrix, exact for every core,
gates on keys and values included, without code for any variant.

Shapes: B images, H heads, T tokens, E channels of a head, R query rows.
"""

from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lina_lab.model.linear import EPSILON, Division, Normalization, Numerator, Subtraction, Weights


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a core, whose module is not changed by anything here."""

    core: nn.Module
    qkv: Tensor
    """Queries, keys and values after norms and rotation, float64 [3, B, H, T, E]."""
    weights: Weights
    """A gate's weights on the tokens."""
    numerator: Numerator | None = None
    """Where the numerator has queries and keys of its own."""

    def output(self) -> Tensor:
        """The core's outputs, float64 [B, H, T, E]."""
        rest = () if self.numerator is None else (self.numerator,)
        # The method itself: calling the module would run its hooks.
        output: Tensor = self.core.forward(self.qkv, self.weights, *rest)
        return output

    def with_values(self, v_BHTE: Tensor) -> "Call":
        """The same call with other values."""
        return replace(self, qkv=torch.stack([self.qkv[0], self.qkv[1], v_BHTE]))

    def doubled(self) -> "Call":
        """The same call with all queries doubled."""
        return replace(self, qkv=self.qkv * self.qkv.new_tensor([2.0, 1.0, 1.0]).reshape(3, 1, 1, 1, 1))

    def matrix(self, rows: Tensor) -> Tensor:
        """Rows of the attention matrix: weights of the raw values, [B, H, R, T].

        Args:
            rows: numbers of the queries, int64 [R].
        """
        v = self.qkv[2]
        tokens, channels = v.shape[-2:]
        columns = []
        for start in range(0, tokens, channels):
            group = range(start, min(start + channels, tokens))
            unit = v.new_zeros(tokens, channels)
            unit[group, range(len(group))] = 1.0
            columns.append(self.with_values(unit.expand_as(v)).output()[..., rows, : len(group)])
        return torch.cat(columns, dim=-1)


class _Recorder(Normalization):
    """A normalization that keeps what it was called with."""

    def __init__(self, own: Normalization) -> None:
        self.own, self.shift, self.spreads = own, own.shift, own.spreads
        self.called: list[tuple[Tensor, Tensor | None]] = []

    def scale(self, head_dim: int) -> float:
        return self.own.scale(head_dim)

    def forward(self, both_BHTF: Tensor, mean_BH1E: Tensor | None, out: Tensor | None = None) -> Tensor:
        self.called.append((both_BHTF, mean_BH1E))
        return self.own.forward(both_BHTF, mean_BH1E, out)

    def backward(self, grad_BHTE: Tensor, both_BHTF: Tensor, mean_BH1E: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.own.backward(grad_BHTE, both_BHTF, mean_BH1E)


def _recorded(call: Call, absolute: bool = False) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Numerator [B, H, T, E], normalizer [B, H, T, 1], mean of the values and outputs of a core with a normalization.

    Args:
        call: its core has a feature map and a normalization.
        absolute: whether every number that is multiplied is replaced by its absolute value.
    """
    core: Any = copy(call.core)  # shares the parameters, which nothing changes
    core.normalization = recorder = _Recorder(core.normalization)
    call = replace(call, core=core)
    if absolute:
        own, shift = core.feature_map, recorder.shift
        core.feature_map = replace(own, value=lambda x: own.value(x).abs(), overwrite=None, kernel=None)
        numerator = call.numerator
        weights = (None if w is None else w.abs() for w in vars(call.weights).values())
        call = replace(
            call,
            qkv=torch.stack([call.qkv[0], call.qkv[1], call.qkv[2].abs()]),
            weights=Weights(*weights),
            numerator=None if numerator is None else lambda raw, _: numerator(raw, own.value(raw) + shift).abs(),
        )
    output = call.output()
    ((both, mean),) = recorder.called
    return both[..., :-1], both[..., -1:], mean, output


def has_normalization(call: Call, kind: type[Normalization] | tuple[type[Normalization], ...]) -> bool:
    """Whether the core normalizes by one of these."""
    return isinstance(getattr(call.core, "normalization", None), kind)


def denominator(call: Call) -> Tensor | None:
    """Division's denominator `q̂ · mean(c k̂) + 1e-6`, [B, H, T]; None: the core does not divide."""
    if not has_normalization(call, Division):
        return None
    return (_recorded(call)[1] + EPSILON).squeeze(-1)


def rounding_gain(call: Call) -> Tensor | None:
    """By how much a relative rounding error of queries, keys and values grows in the outputs: [B, H, T].

    To first order, each number that is multiplied rounded by a share u moves an output o by at most

        division:     `u (|q̂| Ŝ + |o| |q̂|·ẑ) / |d|`, with denominator d
        subtraction:  `u (|q̂| Ŝ + (1 + |q̂|·ẑ) mean|v|)`

    times the small number of roundings, where Ŝ and ẑ are the summary and the normalizer of absolute values. The gain
    is the norm of that by u and |o|; it is the condition number of the formula, and at least 1 for both.

    Returns:
        None: the core has neither normalization.
    """
    if not has_normalization(call, (Division, Subtraction)):
        return None
    _, normalizer, _, output = _recorded(call)
    numerator, size, mean, _ = _recorded(call, absolute=True)
    if mean is None:
        moved = (numerator + output.abs() * size) / (normalizer + EPSILON).abs()
    else:
        moved = numerator + (1 + size) * mean
    gain: Tensor = moved.norm(dim=-1) / output.norm(dim=-1)
    return gain


def summary(call: Call) -> Tensor | None:
    """`k̂ᵀ a v` over all tokens, with the keys of the numerator, [B, H, E, E]; None: the core maps no keys."""
    feature_map, normalization = (getattr(call.core, name, None) for name in ("feature_map", "normalization"))
    if feature_map is None or normalization is None:
        return None
    raw = call.qkv[:2]
    mapped = feature_map.value(raw) + normalization.shift
    keys = (mapped if call.numerator is None else call.numerator(raw, mapped))[1]
    weight = call.weights.key_value
    values = call.qkv[2] if weight is None else call.qkv[2] * weight
    return keys.mT @ values
