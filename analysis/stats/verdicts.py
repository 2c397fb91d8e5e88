"""What a study may say: the verdict of its primary comparison, and everything else as exploratory."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from ..load.runs import StudyRuns
from .tuned import TunedRate

if TYPE_CHECKING:
    from lina_lab.decisions.sequential import MeanInterval
    from lina_lab.decisions.verdicts import Outcome

ONE_SEED = "one seed"
EQUAL_SEEDS = "all seeds differ by the same amount, so their spread says nothing"
NO_SEED = "no seed has all the cells of the comparison"


class Method(StrEnum):
    """How an interval was made."""

    STUDENT = "student"
    """Student's t over seeds."""
    MODERATED = "moderated"
    """The same with a variance that other sizes share in."""
    SEQUENTIAL = "sequential"
    """Repeated confidence interval: valid at every look of `study.until`."""


class Kind(StrEnum):
    """What an exploratory row compares."""

    DIFFERENCE = "difference"
    """Treatment minus baseline at one size."""
    GROWTH = "growth"
    """That difference at the largest size minus the same at the smallest."""
    LOG_GROWTH = "log growth"
    """The same of logarithms: the change of the losses' ratio."""


@dataclass(frozen=True, kw_only=True)
class PrimaryVerdict:
    """The answer to the study's primary comparison."""

    label: str
    """Both values of the axis and what the variants have in common: "subtraction vs. division (depthwise)"."""
    treatment: str
    """Variant that is judged."""
    baseline: str
    """Variant that it is judged against."""
    quantity: Literal["difference", "growth"]
    metric: str
    direction: Literal["minimize", "maximize"]
    """Which way the metric is better."""
    sizes: tuple[Any, ...]
    """The size of a difference; the smallest and the largest size of a growth."""
    values: Mapping[int, float]
    """Seed -> treatment minus baseline, or its growth."""
    deviation: float
    """Standard deviation of the values; NaN for fewer than two."""
    interval: "MeanInterval"
    """Mean of the values with its 95% interval, widened by `regret_low` and `regret_high`."""
    method: Method
    reason: str
    """Why there is no interval; empty where there is one."""
    outcome: "Outcome"
    margin: float | None
    """The variants count as equivalent within plus and minus this; None: equivalence is not judged."""
    within_margin: bool
    looks: int
    """How often the results were looked at so far; 1 without `study.until`."""
    max_seeds: int | None
    """Seeds at which `study.until` ends; None without it."""
    diverged: Mapping[str, tuple[int, int]]
    """Variant -> seeds that diverged, and seeds that ended, at `sizes`."""
    tuned: tuple[TunedRate, ...]
    """The tuned values of the cells that are compared; empty where nothing was tuned."""
    regret_low: float
    """What the choice of the tuned values takes off the interval's low end."""
    regret_high: float
    """What it adds to the high end."""
    needed_deviation: float
    """A deviation over seeds above this would be needed to explain the value by the seed: |value| / 1.96."""
    resolvable: float
    """Difference that this number of seeds resolves with a power of 0.8; NaN without a deviation."""
    seeds_needed: int | None
    """Seeds that would resolve the observed difference with a power of 0.8; None without a deviation."""

    @property
    def seeds(self) -> int:
        """How many seeds the verdict rests on."""
        return len(self.values)


def primary_verdict(runs: StudyRuns) -> PrimaryVerdict | None:
    """Judge the study's primary comparison; None where it declares none."""
    raise NotImplementedError


def exploratory(runs: StudyRuns) -> pd.DataFrame:
    """Return every comparison that is not the primary one, Holm-corrected as one family.

    Returns:
        `paired.COMPARED` and `kind` (`Kind`), `smallest`, `largest` (sizes of a growth, whose `size` is the largest; NaN
        for a difference), `difference`, `block_se`, `seed_se`, `low`, `high` (95% interval of this row alone), `p`,
        `seeds`, `excludes_zero` (that interval), `needed_deviation`, `holm`, `outcome` (`Outcome`, after the
        correction), `reason` (why there is no interval, or empty).
    """
    raise NotImplementedError


def divergences(runs: StudyRuns) -> pd.DataFrame:
    """Return how many seeds diverged: `variant`, `size`, `diverged`, `seeds` (those that ended)."""
    raise NotImplementedError
