"""How a study comes to its verdict: tuned fields, a second training for rounding, and when it has enough seeds."""

from collections.abc import Iterator
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lina_lab.config.checks import CHECKS, Checked, NonNegativeInt, PositiveFloat, PositiveInt
from lina_lab.config.primary import Name

RACING_SEEDS = 5
"""Seeds of tuning from which racing can save any: Optuna's pruner tests at 10%, which Wilcoxon's test can reach with
four pairs (1/16) and not with three (1/8)."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class TuningConfig(Checked):
    """How `study.tune` finds the best value for each variant and size."""

    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)] = field(default_factory=lambda: [1000, 1001])
    """Seeds of the trials. They are not seeds of the study, so the choice does not favor the results it is made for."""
    sampler: Literal["grid", "tpe"] = "grid"
    """grid: every value of the list; tpe: these first, then Optuna's sampler between the smallest and the largest."""
    trials: PositiveInt = 8
    """For sampler=tpe: values that are tried for each variant and size, those of the list included."""
    racing: bool = False
    """Give up a value before all seeds are trained, where Optuna's Wilcoxon pruner finds it worse than the best. Needs
    at least 5 seeds."""
    extend: NonNegativeInt = 0
    """How often the grid grows by one value where the best one lies at its edge. 0: such an optimum is refused."""
    sizes: list[Name] = field(default_factory=list)
    """Sizes that are tuned, as `lina plan` shows them; the others take the value of the nearest one in the list of
    sizes (of two the smaller), as model.parametrization=mup allows. Empty: all."""

    def _problems(self) -> Iterator[str]:
        if len(set(self.seeds)) < len(self.seeds):
            yield f"seeds={self.seeds} names a seed twice"
        if self.racing and len(self.seeds) < RACING_SEEDS:
            yield (
                f"racing needs at least {RACING_SEEDS} seeds of tuning: on fewer than {RACING_SEEDS - 1} pairs of "
                "losses Wilcoxon's test calls nothing worse"
            )


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class UntilConfig(Checked):
    """When enough seeds are trained. Seeds are added to the cells of `study.primary`."""

    max_seeds: PositiveInt
    """Seeds at which the study ends in any case."""
    primary: Literal["resolved"] | None = None
    """resolved: until the interval of the primary comparison excludes zero, or lies within its margin."""
    width: PositiveFloat | None = None
    """Until the interval of the primary comparison is this wide, from end to end."""
    step: PositiveInt = 2
    """Seeds that are added at a time. The interval accounts for every look at the results."""

    def _problems(self) -> Iterator[str]:
        if (self.primary is None) == (self.width is None):
            yield "give either primary=resolved or width=NUMBER, and null for the other"


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class RoundingConfig(Checked):
    """How cells of the comparison are trained a second time: with the same seed, and their sums in another order."""

    threads: PositiveInt | None = None
    """Threads of each process in the second training; null: as in the first. On a GPU they change nothing."""
    accumulate_grad_batches: PositiveInt | None = None
    """Micro-batches of an optimizer step in the second training; null: as in the first."""
    seeds: list[NonNegativeInt] = field(default_factory=list)
    """Seeds that are trained a second time; empty: all of the study."""

    @property
    def changes(self) -> dict[str, Any]:
        """Field of study.resources -> its value in the second training."""
        both = {"threads": self.threads, "accumulate_grad_batches": self.accumulate_grad_batches}
        return {name: value for name, value in both.items() if value is not None}

    def _problems(self) -> Iterator[str]:
        if not self.changes:
            yield "give threads or accumulate_grad_batches: without another order of sums nothing is rounded otherwise"
