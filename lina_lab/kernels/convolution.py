"""The depthwise convolution of the kernels as an operator of PyTorch, with its gradients.

Shapes: B batch, M condition tokens, T tokens, D width, K taps a side.
"""

from typing import Any

import torch
from torch import Tensor

from lina_lab.kernels import conv
from lina_lab.kernels.attention import once_only
from lina_lab.kernels.launch import chunks, launch, next_power

TOKENS, CHANNELS = 32, 64
"""Of a block."""
TOKENS_OF_TAPS = 16
"""Tokens of a block where a program holds a row of taps."""


@torch.library.custom_op("lina_lab::convolve", mutates_args=())
def convolve(
    base_BTD: Tensor, x_BTD: Tensor, kernel: Tensor, bias: Tensor, rows: int, columns: int, condition: int
) -> Tensor:
    """`base` with the convolution of the image tokens of `x` added, [B, T, D] in the precision of `base`.

    Args:
        base_BTD: what is added to; the last stride is 1, as that of `x_BTD`.
        x_BTD: condition tokens, then the image tokens of a grid.
        kernel: [D, 1, K, K], contiguous; K is odd.
        bias: [D].
        rows: of the grid.
        columns: of the grid.
        condition: condition tokens M.
    """
    out = torch.empty_like(base_BTD, memory_format=torch.contiguous_format)
    _convolve(x_BTD, kernel, out, rows, columns, condition, bias=bias, base=base_BTD)
    return out


@convolve.register_fake
def _(base_BTD: Tensor, x_BTD: Tensor, kernel: Tensor, bias: Tensor, rows: int, columns: int, condition: int) -> Tensor:
    return torch.empty_like(base_BTD, memory_format=torch.contiguous_format)


@torch.library.custom_op("lina_lab::convolve_backward", mutates_args=())
def backward(
    grad_BTD: Tensor, x_BTD: Tensor, kernel: Tensor, rows: int, columns: int, condition: int
) -> tuple[Tensor, Tensor]:
    """Gradients of `x`, and in float32 [K K + 1, D] of each tap and the bias."""
    grad_x = torch.empty_like(x_BTD, memory_format=torch.contiguous_format)
    _convolve(grad_BTD, kernel, grad_x, rows, columns, condition)
    (batch, _, width), side = x_BTD.shape, kernel.shape[-1]
    grid = -(-width // CHANNELS), side
    count, blocks = chunks(batch * rows * columns, TOKENS_OF_TAPS, grid[0] * grid[1] // 4 or 1)
    parts = x_BTD.new_empty(count, side * side + 1, width, dtype=torch.float32)
    launch(
        conv.pull_kernel, (*grid, count),
        x_BTD, grad_BTD, parts, condition, rows * columns, batch, blocks, rows, columns, width,
        *x_BTD.stride()[:2], *grad_BTD.stride()[:2],
        K=side, BK=next_power(side), BT=TOKENS_OF_TAPS, BD=CHANNELS, warps=4, stages=2,
    )  # fmt: skip
    return grad_x, parts[0] if count == 1 else parts.sum(0)


@backward.register_fake
def _(
    grad_BTD: Tensor, x_BTD: Tensor, kernel: Tensor, rows: int, columns: int, condition: int
) -> tuple[Tensor, Tensor]:
    taps = x_BTD.new_empty(kernel.shape[-1] ** 2 + 1, x_BTD.shape[-1], dtype=torch.float32)
    return torch.empty_like(x_BTD, memory_format=torch.contiguous_format), taps


def _convolve(
    x: Tensor,
    kernel: Tensor,
    out: Tensor,
    rows: int,
    columns: int,
    condition: int,
    *,
    bias: Tensor | None = None,
    base: Tensor | None = None,
) -> None:
    batch, tokens, width = x.shape
    there = base is not None and bias is not None
    added = (bias, base) if there else (kernel, x)
    launch(
        conv.convolve, (-(-tokens // TOKENS), -(-width // CHANNELS), batch),
        x, kernel, *added, out, condition, tokens, rows, columns, width,
        *x.stride()[:2], *(base if base is not None else x).stride()[:2], *out.stride()[:2],
        HAS_BASE=there, FLIPPED=not there, K=kernel.shape[-1], BT=TOKENS, BD=CHANNELS, warps=4, stages=1,
    )  # fmt: skip


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    base, x, kernel, bias, *ctx.grid = inputs
    ctx.dtypes = base.dtype, bias.dtype
    ctx.save_for_backward(x, kernel)


def _pull(ctx: Any, grad_BTD: Tensor) -> tuple[Tensor | None, ...]:
    x, kernel = ctx.saved_tensors
    grad = grad_BTD if grad_BTD.stride(-1) == 1 else grad_BTD.contiguous()
    grad_x, taps = backward(grad, x, kernel, *ctx.grid)
    grad_kernel = taps[:-1].t().reshape(kernel.shape).to(kernel.dtype)
    return grad_BTD, grad_x, grad_kernel, taps[-1].to(ctx.dtypes[1]), None, None, None


convolve.register_autograd(_pull, setup_context=_keep)
backward.register_autograd(once_only)
