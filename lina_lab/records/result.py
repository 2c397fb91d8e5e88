"""What a trial comes to. Imports no torch, for those who only read it."""

from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["done", "diverged", "cancelled", "preempted"]


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """What a trial came to."""

    status: Status
    images_seen: int
    steps: int
    """Optimizer steps."""
    metrics: dict[str, float]
    """Last value of each logged metric."""
    parameters: int
    trainable_parameters: int
    images_per_second: float
    """Training alone: validation and pictures are not in it."""
    fit_seconds: float
    """Wall time inside `Trainer.fit`, this time."""
    peak_memory_mib: float
    """Largest resident memory of the process during the trial, this time; what it held before is in it."""
    ranks: int = 1
    """Processes that trained it together, this time."""
    step_seconds: float = 0.0
    """Mean time of an optimizer step, this time, with what follows."""
    data_seconds: float = 0.0
    """Of it, waiting for data."""
    communication_seconds: float | None = None
    """Of it, waiting for gradients of other ranks; None where it is not measured."""
    error: str | None = None
    """Why it diverged, was cancelled, or made room."""
    resumed_at: int | None = None
    """Step at which it was taken up again; None: it started at the beginning."""
    problems: tuple[str, ...] = ()
    """What went wrong beside training."""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "TrialResult":
        """The result from what `dataclasses.asdict` and JSON made of it."""
        return cls(**{**data, "problems": tuple(data["problems"])})
