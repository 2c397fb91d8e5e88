"""Feature maps of linear attention inside a kernel, in float32: the twins of `lina_lab.model.feature_maps`."""

import triton
from triton import language as tl

EXP_LIMIT = tl.constexpr(10.0)
"""exp is flat above this, as in the eager form."""
SLOPE = tl.constexpr(0.01)
"""Slope of leaky_relu below zero."""


@triton.jit
def mapped(x, MAP: tl.constexpr):
    """The feature map of each number."""
    if MAP == "relu":
        y = tl.maximum(x, 0.0)
    elif MAP == "elu":
        y = tl.where(x >= 0, x + 1, tl.exp(tl.minimum(x, 0.0)))
    elif MAP == "exp":
        y = tl.exp(tl.minimum(x, EXP_LIMIT))
    elif MAP == "leaky_relu":
        y = tl.where(x > 0, x, SLOPE * x)
    elif MAP == "softplus":
        # log(1 + e) without its rounding of 1 + e: e is small where x is far from zero.
        e = tl.exp(-tl.abs(x))
        u = 1 + e
        y = tl.maximum(x, 0.0) + tl.where(u == 1, e, tl.log(u) * (e / tl.where(u == 1, 1.0, u - 1)))
    elif MAP == "squared_relu":
        y = tl.maximum(x, 0.0) * tl.maximum(x, 0.0)
    else:
        tl.static_assert(MAP == "identity", "a feature map without a form in kernels")
        y = x
    return y


@triton.jit
def slope(x, MAP: tl.constexpr):
    """The derivative of the feature map at each number."""
    if MAP == "relu":
        d = tl.where(x > 0, 1.0, 0.0)
    elif MAP == "elu":
        d = tl.exp(tl.minimum(x, 0.0))
    elif MAP == "exp":
        d = tl.where(x < EXP_LIMIT, tl.exp(tl.minimum(x, EXP_LIMIT)), 0.0)
    elif MAP == "leaky_relu":
        d = tl.where(x > 0, 1.0, SLOPE)
    elif MAP == "softplus":
        e = tl.exp(-tl.abs(x))
        d = tl.where(x >= 0, 1.0, e) / (1 + e)
    elif MAP == "squared_relu":
        d = 2 * tl.maximum(x, 0.0)
    else:
        tl.static_assert(MAP == "identity", "a feature map without a form in kernels")
        d = tl.full(x.shape, 1.0, tl.float32)
    return d
