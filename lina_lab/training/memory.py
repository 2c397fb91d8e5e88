"""Memory of a training process: kept between steps, and measured for each trial."""

import ctypes
import resource
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

LARGEST_KEPT = 2**30
"""Bytes of a piece of memory, and of all that is free at the heap's end, up to which the process keeps it."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""


def keep_freed_memory() -> None:
    """Have the C library keep the memory of freed tensors for the next ones, after giving back what is free now.

    By default glibc returns each large piece to the kernel and asks for it again at the next step, and the kernel fills
    it with zeros each time: 5 to 10% of a training step on a CPU. Numbers do not change. What an earlier trial of this
    process left is returned, so that it does not count as memory of the next one. Does nothing without glibc.
    """
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)
        library.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        library.mallopt(M_TRIM_THRESHOLD, LARGEST_KEPT)


@cache
def _glibc() -> Any:
    """The C library, where it is glibc; otherwise None."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def forget_peak_memory() -> None:
    """Let `peak_memory_mib` start again at what this process holds now.

    Otherwise a process that trains many cells would give each of them the peak of the largest before it. Outside Linux,
    and where the kernel refuses, the peak stays that of the whole process.
    """
    with suppress(OSError):
        # proc(5), clear_refs: 5 resets the peak resident set size.
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mib() -> float:
    """Largest resident memory of this process since `forget_peak_memory`, otherwise since its start."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage, which includes what the parent had in memory when it started this process.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
