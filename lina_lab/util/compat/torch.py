"""torch 2.14: what DDP measures of itself, and the events of a profile.

Public: the same numbers as text, in logs and in `profile.key_averages`. Missing: the numbers themselves.
"""

from collections.abc import Sequence
from typing import Any

from torch.nn.parallel import DistributedDataParallel
from torch.profiler import profile


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
