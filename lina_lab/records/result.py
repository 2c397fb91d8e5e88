"""How far a trial is, and its result. Imports no torch, for processes that only read them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lina_lab.records.status import TrialStatus


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a trial is."""

    images: int
    """Images seen."""
    loss: float
    """Training loss of the last step."""


Report = Callable[[Progress], None]
"""Called after each optimizer step."""


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """The result of a trial."""

    status: TrialStatus
    images_seen: int
    steps: int
    """Optimizer steps."""
    metrics: dict[str, float]
    """Last value of each logged metric."""
    parameters: int
    trainable_parameters: int
    images_per_second: float
    """Rate of training alone, without validation and image generation."""
    fit_seconds: float
    """Wall time inside `Trainer.fit` in the last attempt."""
    peak_memory_mib: float
    """Largest resident memory of the process during the last attempt, including what it held before."""
    ranks: int = 1
    """Processes that trained it together in the last attempt."""
    threads: int | None = None
    """Threads of each process. Their number changes the order of sums, and with it the rounding; None in records of
    earlier versions."""
    step_seconds: float = 0.0
    """Mean time of an optimizer step in the last attempt, data loading included."""
    data_seconds: float = 0.0
    """Part of `step_seconds` that waits for data."""
    communication_seconds: float | None = None
    """Part of `step_seconds` that waits for gradients of other ranks; None where it is not measured."""
    error: str | None = None
    """Why it diverged, was cancelled or was preempted."""
    resumed_at: int | None = None
    """Step at which the last attempt resumed it; None: it started at the beginning."""
    problems: tuple[str, ...] = ()
    """Problems that did not end training."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TrialResult":
        """The result from what `dataclasses.asdict` and JSON made of it, in this version or an earlier one.

        Raises:
            KeyError, TypeError, ValueError: the data are not a result.
        """
        return cls(**{**data, "status": TrialStatus(data["status"]), "problems": tuple(data.get("problems", ()))})
