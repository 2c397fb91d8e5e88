"""How far a trial is, and its result. Imports no torch, for processes that only read them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from lina_lab.records.status import TrialStatus


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a trial is."""

    images: int
    """Images seen."""
    loss: float
    """Training loss of the last step."""
    step: int | None = None
    """Optimizer steps taken. This and all that follows is None where it is not known."""
    total_images: int | None = None
    """Images of the whole budget."""
    learning_rate: float | None = None
    """Of the first group of parameters, in the last step."""
    gradient_norm: float | None = None
    """Euclidean norm of all gradients before clipping, in the last step in which it was measured."""
    loss_spikes: int | None = None
    """Spikes of the training loss so far, see `lina_lab/training/spikes.py`."""
    images_per_second: float | None = None
    """Rate of training since the line before the last one in the log."""
    share_of_peak: float | None = None
    """FLOP/s of training as a share of what the devices' maker states for this precision."""
    memory_mib: float | None = None
    """Largest memory so far: of the device that holds the model, or of the process where that is the CPU."""
    seconds_left: float | None = None
    """At the pace of this attempt so far, validation included."""
    validated_images: int | None = None
    """Images seen at this attempt's last validation."""
    validation: Mapping[str, float] | None = None
    """Metric -> value, for what that validation measured."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Progress":
        """The progress from JSON, of this version or another one.

        Raises:
            KeyError, TypeError, ValueError: the data are no progress.
        """
        known: dict[str, Any] = {field.name: data.get(field.name) for field in fields(cls)}
        return cls(**known | {"images": int(data["images"]), "loss": float(data["loss"])})

    def __str__(self) -> str:
        """One line for a log."""
        images = f"{self.images:,}" + ("" if self.total_images is None else f" of {self.total_images:,}") + " images"
        share = "" if self.total_images is None else f" ({self.images / self.total_images:.1%})"
        step = [] if self.step is None else [f"step {self.step:,}"]
        left = [] if self.seconds_left is None else [f"{duration(self.seconds_left)} left"]
        return ", ".join([*step, images + share, *self.figures, *left])

    @property
    def figures(self) -> list[str]:
        """What is known of how well and how fast it trains, the loss first."""
        parts = [
            f"loss {self.loss:.4f}",
            "" if self.learning_rate is None else f"learning rate {self.learning_rate:.3g}",
            "" if self.gradient_norm is None else f"gradient norm {self.gradient_norm:.3g}",
            f"{self.loss_spikes} spikes of the loss" if self.loss_spikes else "",
            "" if self.images_per_second is None else f"{self.images_per_second:,.1f} images/s",
            "" if self.share_of_peak is None else f"{self.share_of_peak:.1%} of peak",
            "" if self.memory_mib is None else f"{self.memory_mib:,.0f} MiB",
        ]
        return [part for part in parts if part]


def duration(seconds: float) -> str:
    """A time for people, such as `40 s`, `12 min`, `3 h 05 min` or `2 d 4 h`."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{hours // 24} d {hours % 24} h"


LINE_SECONDS = 60.0
"""Between two lines on a trial's progress in a log."""
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
    """Why it diverged, or was cancelled, preempted or pruned."""
    resumed_at: int | None = None
    """Step at which the last attempt resumed it; None: it started at the beginning."""
    problems: tuple[str, ...] = ()
    """Problems that did not end training."""
    origin: str | None = None
    """What it started from, and what became of those weights; None: weights that were drawn from the seed."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TrialResult":
        """The result from what `dataclasses.asdict` and JSON made of it, in this version or an earlier one.

        Raises:
            KeyError, TypeError, ValueError: the data are not a result.
        """
        return cls(**{**data, "status": TrialStatus(data["status"]), "problems": tuple(data.get("problems", ()))})
