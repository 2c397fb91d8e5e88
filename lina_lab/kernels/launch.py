"""How the kernels' work is cut into programs."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

PROGRAMS = 128
"""About as many programs work at once as the largest GPUs have processors. The same everywhere: where sums over tokens
are cut decides how they are rounded."""
WIDEST = 128
"""Channels of a head of which a summary still fits a processor's registers."""


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, warps: int, stages: int, **constants: Any) -> None:
    """Run a kernel on the device of its first argument."""
    with _device_of(args[0]):
        kernel[grid](*args, **constants, num_warps=warps, num_stages=stages)


def _device_of(x: Tensor) -> AbstractContextManager[Any]:
    return torch.cuda.device_of(x)


def next_power(number: int) -> int:
    """The least power of two that is no less."""
    return 1 << (number - 1).bit_length()


def chunks(tokens: int, block: int, rows: int) -> tuple[int, int]:
    """Chunks that each row of work is cut into, and blocks of tokens in a chunk.

    Args:
        tokens: of a row.
        block: tokens that a program takes at once.
        rows: rows, such as the heads of all samples.
    """
    blocks = -(-tokens // block)
    each = -(-blocks // max(1, PROGRAMS // rows))
    return -(-blocks // each), each


def precision(dtype: torch.dtype) -> str:
    """How matrices of this precision are multiplied: float32 as PyTorch's own products are."""
    fast = dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return "tf32" if fast else "ieee"


def strides(weight: Tensor | None, shape: Sequence[int]) -> tuple[int, int, int]:
    """Strides of a gate's weights as [B, H, T]; 0 along what they are broadcast to."""
    if weight is None:
        return 0, 0, 0
    batch, head, token, _ = weight.expand(*shape, 1).stride()
    return batch, head, token
