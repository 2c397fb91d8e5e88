"""torch 2.14: what DDP measures of itself, the events of a profile, the state of a generator, many lerps at once; and
why a file could not be written.

Public: the same numbers as text, in logs and in `profile.key_averages`, and a generator's state as bytes. Missing: the
numbers themselves, and the layout of the state, which alone takes more than 32 bits of a seed.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import profile

MERSENNE_WORDS = 624
"""Numbers of 32 bits in the state of a Mersenne Twister, torch's generator on the CPU."""
STATE = slice(24, 24 + 8 * MERSENNE_WORDS)
"""Where they lie in `Generator.get_state()`, each in 64 bits: after the seed, the counters and the position."""


@cache
def _fresh_state() -> npt.NDArray[np.uint8]:
    """The state of a generator that has just been seeded: it makes its first numbers from all words."""
    return Generator().manual_seed(0).get_state().numpy().copy()


def set_mersenne_state(generator: Generator, words: bytes) -> Generator:
    """Fill the whole state of a generator of the CPU, which is returned, with MERSENNE_WORDS little-endian words."""
    state = _fresh_state().copy()
    state[STATE].view(np.uint64)[:] = np.frombuffer(words, "<u4")
    generator.set_state(torch.from_numpy(state))
    return generator


def lerp_all(tensors: Sequence[Tensor], ends: Sequence[Tensor], weight: float) -> None:
    """Move each tensor in place by a share of its way to the other one, all at once (`torch._foreach_lerp_`)."""
    torch._foreach_lerp_(list(tensors), list(ends), weight)


def save_file(state: Any, path: Path) -> None:
    """`torch.save` to a file, with the system's error where the disk is full.

    Given a path, torch writes by itself and raises a RuntimeError that names positions in the file and no reason.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # Raised by torch's own end of the file, after the system's error.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def ddp_logging_data(model: DistributedDataParallel) -> dict[str, Any]:
    """DDP's measurements, times in nanoseconds, over the first ten steps and each hundredth one.

    `_get_ddp_logging_data`; in it `avg_backward_comm_time` and `avg_backward_compute_comm_overlap_time`.
    """
    measured: dict[str, Any] = model._get_ddp_logging_data()  # type: ignore[no-untyped-call]
    return measured


def profile_events(profiled: profile) -> Sequence[Any]:
    """All events of a profile, allocations included (`profiler.kineto_results`)."""
    events: Sequence[Any] = profiled.profiler.kineto_results.events()  # type: ignore[union-attr]
    return events
