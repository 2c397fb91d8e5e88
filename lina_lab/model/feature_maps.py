"""Feature maps of linear attention."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

EXP_LIMIT = 10.0
"""exp is flat above this, so that sums of products stay finite in bfloat16's products and float32's sums."""


@dataclass(frozen=True)
class FeatureMap:
    """A function of queries and keys, and its derivative as a function of its result."""

    value: Callable[[Tensor], Tensor]
    """y = f(x)"""
    pull: Callable[[Tensor, Tensor, float], Tensor]
    """(grad, y + shift, shift) -> grad * f'(x); may overwrite `grad`."""
    overwrite: Callable[[Tensor], Tensor] | None = None
    """As `value`, in the memory of x."""
    kernel: str | None = None
    """Name of the same function in `lina_lab.kernels.maps`; None: there is only the eager form."""


RELU = FeatureMap(
    F.relu,
    lambda g, y, shift: torch.ops.aten.threshold_backward.grad_input(g, y, shift, grad_input=g),
    torch.relu_,
    kernel="relu",
)
# Not F.elu(x) + 1, which cancels below zero: in bfloat16 it is 58% off at -6 and 0 at -8. The clamp keeps exp finite.
ELU = FeatureMap(
    lambda x: torch.where(x >= 0, x + 1, x.clamp(max=0.0).exp()),
    lambda g, y, shift: g.mul_((y - shift).clamp_(max=1.0)),
    kernel="elu",
)
IDENTITY = FeatureMap(lambda x: x, lambda g, y, shift: g, kernel="identity")
EXP = FeatureMap(
    lambda x: x.clamp(max=EXP_LIMIT).exp(),
    lambda g, y, shift: g.mul_(y - shift).masked_fill_(y >= y.new_tensor(EXP_LIMIT).exp() + shift, 0.0),
    kernel="exp",
)
LEAKY_RELU = FeatureMap(
    F.leaky_relu,
    lambda g, y, shift: torch.where(y > shift, g, 0.01 * g),  # F.leaky_relu's slope
    kernel="leaky_relu",
)
SOFTPLUS = FeatureMap(F.softplus, lambda g, y, shift: g.mul_((y - shift).neg_().expm1_().neg_()), kernel="softplus")
SQUARED_RELU = FeatureMap(
    lambda x: F.relu(x).square(),
    lambda g, y, shift: g.mul_((y - shift).clamp_(min=0.0).sqrt_().mul_(2)),
    kernel="squared_relu",
)
