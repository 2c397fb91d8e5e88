"""Learning-rate schedules by name: `optimizer.schedule`.

After the warm-up a schedule keeps the rate at `optimizer.lr`, and from some step on it lowers it until the budget ends.
So it is a place where the fall begins and a shape of the fall. A package of somebody else's adds one by an entry point
of the group `lina_lab.schedules`, see CONTRIBUTING.md.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lina_lab.util.registry import OpenRegistry, resolve

if TYPE_CHECKING:
    from lina_lab.config.optimizers import OptimizerConfig
    from lina_lab.config.trial import TrialConfig

FIELDS = {"cooldown": None, "final_rate": 0.0}
"""Fields of `optimizer` that belong to a schedule, with their defaults."""


@dataclass(frozen=True, kw_only=True)
class ScheduleEntry:
    """What the configuration knows of a schedule."""

    name: str
    documentation: str
    """One line for the help."""
    falls: Literal["never", "after warm-up", "in cooldown"]
    """From where on the rate is lowered. in cooldown: in the last share of the budget, `optimizer.cooldown`."""
    shape: Any = None
    """Maps the progress of the fall, from 0 to 1, to what is left of it, from 1 to 0: "package.module:attribute", or
    the function. It must not keep any state, so that a trial resumes."""

    def check(self) -> None:
        """Refuse an entry that is not complete.

        Raises:
            ValueError: what is missing.
        """
        if self.falls not in ("never", "after warm-up", "in cooldown"):
            raise ValueError(f"optimizer.schedule={self.name} must say from where on the rate falls, not {self.falls}")
        if self.falls != "never" and not (isinstance(self.shape, str) or callable(self.shape)):
            raise ValueError(f"optimizer.schedule={self.name} has no shape: an entry says how the rate falls")

    def load(self) -> Callable[[float], float]:
        """The function of the shape."""
        shape: Callable[[float], float] = resolve(self.shape)
        return shape

    @property
    def uses(self) -> tuple[str, ...]:
        """The fields of `optimizer` that it uses."""
        by_start = {"never": (), "after warm-up": ("final_rate",), "in cooldown": ("cooldown", "final_rate")}
        return by_start[self.falls]

    def problems(self, config: "OptimizerConfig") -> Iterator[str]:
        """A sentence for each field that it needs and lacks, or has and does not use."""
        for field, default in FIELDS.items():
            value = getattr(config, field)
            if value != default and field not in self.uses:
                used = f"which uses {' and '.join(self.uses)} alone" if self.uses else "whose rate stays as it is"
                yield f"{field}={value:g} is not a field of schedule={self.name}, {used}"
        if self.falls == "in cooldown" and config.cooldown is None:
            yield f"schedule={self.name} needs cooldown, the share of the budget in which the rate falls, such as 0.2"

    def falls_from(self, cooldown: float | None, *, total: int, warmup: float) -> float:
        """The step from which on the rate is lowered; infinity: it never is.

        Args:
            cooldown: `optimizer.cooldown`.
            total: optimizer steps of the budget.
            warmup: optimizer steps of the warm-up.
        """
        if self.falls == "never":
            return math.inf
        return warmup if cooldown is None else total - cooldown_steps(cooldown, total)


def cooldown_steps(cooldown: float, total: int) -> int:
    """Optimizer steps of a cooldown: its share of the budget, rounded, and at least one."""
    return max(1, round(cooldown * total))


def rate_factor(config: "OptimizerConfig", step: int, *, total: int, warmup: float) -> float:
    """What `optimizer.lr` is multiplied with in an optimizer step; it depends on nothing but the arguments.

    Args:
        config: the optimizer's.
        step: steps taken before, from 0.
        total: optimizer steps of the budget.
        warmup: optimizer steps of the linear warm-up.
    """
    warm = min(1.0, (step + 1) / max(warmup, 1))
    entry = SCHEDULES[config.schedule]
    begin = entry.falls_from(config.cooldown, total=total, warmup=warmup)
    if step <= begin:
        return warm
    progress = min(1.0, (step - begin) / (total - begin)) if begin < total else 1.0
    return warm * (config.final_rate + (1 - config.final_rate) * entry.load()(progress))


def warmup_steps(config: "TrialConfig") -> float:
    """Optimizer steps of a trial's warm-up, not rounded."""
    return config.optimizer.warmup_images / config.data.batch_size


def cooldown_start(config: "TrialConfig") -> int:
    """Images seen when the schedule begins to lower the rate; the whole budget where it never does."""
    entry, total = SCHEDULES[config.optimizer.schedule], config.max_steps
    begin = entry.falls_from(config.optimizer.cooldown, total=total, warmup=warmup_steps(config))
    return round(min(begin, total) * config.data.batch_size)


def problem_of_budget(config: "TrialConfig") -> str | None:
    """Why a trial's budget is too short for its schedule, as a sentence; None: it is not."""
    optimizer, budget = config.optimizer, f"the budget of {config.images_seen:,} images"
    start = cooldown_start(config)
    if start < optimizer.warmup_images and SCHEDULES[optimizer.schedule].falls == "in cooldown":
        return (
            f"optimizer.warmup_images={optimizer.warmup_images:,} and optimizer.cooldown={optimizer.cooldown:g} are "
            f"together longer than {budget}"
        )
    if start >= config.images_seen and SCHEDULES[optimizer.schedule].falls != "never":
        return (
            f"optimizer.warmup_images={optimizer.warmup_images:,} leaves nothing of {budget} in which "
            f"optimizer.schedule={optimizer.schedule} could lower the rate"
        )
    return None


def problem_of_going_on(config: "TrialConfig", source: "TrialConfig", seen: int) -> str | None:
    """Why a trial cannot go on from a state of another one as if it had been its own; None: the rates before it agree.

    Args:
        config: the trial; it differs from the source in its budget and schedule alone (`start.state=training`).
        source: the trial that the state is of.
        seen: images that the state has seen.
    """
    for trial, who in ((source, "the source"), (config, "this trial")):
        if (start := cooldown_start(trial)) < min(seen, trial.images_seen):
            return (
                f"start.state=training goes on after {seen:,} images, where the rate must not have fallen: "
                f"optimizer.schedule={trial.optimizer.schedule} of {who} lowers it from {start:,} images on"
            )
    return None


def cosine(progress: float) -> float:
    """Half a period of a cosine (arXiv 1608.03983)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def linear(progress: float) -> float:
    """A straight line."""
    return 1 - progress


def one_minus_sqrt(progress: float) -> float:
    """1 - √progress (arXiv 2405.18392)."""
    return 1 - math.sqrt(progress)


SCHEDULES: OpenRegistry[ScheduleEntry] = OpenRegistry("optimizer.schedule", "lina_lab.schedules", ScheduleEntry)
for entry in (
    ScheduleEntry(name="constant", documentation="the rate stays after the warm-up", falls="never"),
    ScheduleEntry(
        name="cosine",
        documentation="half a cosine from the end of the warm-up to the end of the budget",
        falls="after warm-up",
        shape=cosine,
    ),
    ScheduleEntry(
        name="linear",
        documentation="a straight line from the end of the warm-up to the end of the budget",
        falls="after warm-up",
        shape=linear,
    ),
    ScheduleEntry(
        name="wsd",
        documentation="warm-up, stable rate, then 1 - √progress in the cooldown (arXiv 2405.18392)",
        falls="in cooldown",
        shape=one_minus_sqrt,
    ),
):
    SCHEDULES.register(entry)
