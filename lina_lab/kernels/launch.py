"""How the kernels' work is cut into programs."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

PROGRAMS = 128
"""About as many programs as the largest GPUs have processors. The same everywhere: where sums over tokens are cut
decides how they are rounded."""
WIDEST = 128
"""Channels of a head of which a summary still fits a processor's registers."""


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, warps: int, stages: int, **constants: Any) -> None:
    """Run a kernel on the device of its first argument."""
    with _device_of(args[0]):
        kernel[grid](*args, **constants, num_warps=warps, num_stages=stages)


def _device_of(x: Tensor) -> AbstractContextManager[Any]:
    return torch.cuda.device_of(x)  # type: ignore[no-untyped-call]


def next_power(number: int) -> int:
    """The least power of two that is no less."""
    return 1 << (number - 1).bit_length()


def chunks(tokens: int, block: int, rows: int, programs: int = PROGRAMS) -> tuple[int, int]:
    """Chunks that each row of work is cut into, and blocks of tokens in a chunk.

    Args:
        tokens: of a row.
        block: tokens that a program takes at once.
        rows: rows, such as the heads of all samples.
        programs: about how many there are to be.
    """
    blocks = -(-tokens // block)
    each = -(-blocks // max(1, programs // rows))
    return -(-blocks // each), each


def plan(dtype: torch.dtype, channels: int, *, pull: bool, sums: bool) -> dict[str, Any]:
    """Constants of a kernel's program such that it neither spills registers nor lacks shared memory.

    float32 is multiplied as precisely as PyTorch's own products are: in full unless
    `torch.set_float32_matmul_precision` allows tf32. Three products of tf32 make a full one; they take more shared
    memory than two heads' worth of 128 channels leave in a backward pass, which multiplies without tensor cores then.

    Args:
        dtype: of queries, keys and values.
        channels: of a head, filled up to a power of two.
        pull: whether it is a kernel of the backward pass.
        sums: whether it adds up a summary.
    """
    wide, precision = channels > 64, "ieee"
    if dtype == torch.float32:
        full = torch.get_float32_matmul_precision() == "highest"
        precision = "ieee" if full and wide and pull else "tf32x3" if full else "tf32"
        tokens = 16
    else:
        tokens = 32 if wide and pull else 64
    stages = 3 if sums and not pull else 2
    return {"BE": channels, "BT": tokens, "PRECISION": precision, "warps": 8 if wide else 4, "stages": stages}


def shared_memory(dtype: torch.dtype, channels: int) -> int:
    """Bytes of shared memory that no kernel of such heads exceeds, in a forward and a backward pass."""
    wide = next_power(max(16, channels)) > 64
    return 1024 * ((160 if wide else 100) if dtype == torch.float32 else (112 if wide else 66))


def strides(weight: Tensor | None, shape: Sequence[int]) -> tuple[int, int, int]:
    """Strides of a gate's weights as [B, H, T]; 0 along what they are broadcast to."""
    if weight is None:
        return 0, 0, 0
    batch, head, token, _ = weight.expand(*shape, 1).stride()
    return batch, head, token
