"""What a study may say: the verdict of its primary comparison, and everything else as exploratory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any, Literal

import numpy as np
import pandas as pd

from lina_lab.config import ContrastTerm
from lina_lab.decisions.power import resolvable, seeds_needed
from lina_lab.decisions.sequential import MeanInterval
from lina_lab.decisions.verdicts import Outcome, judge, within

from ..load.runs import StudyRuns
from . import contrasts
from .exploratory import needed_deviation, reason
from .primary_interval import Method, interval_of, looks_taken
from .tuned import TunedRate, at_best, choice_at, choices


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two differences that an interaction compares."""

    name: str
    """The value of the other axis, such as "classification"."""
    interval: MeanInterval
    """Treatment minus baseline there, over the seeds of the interaction, on its scale."""


@dataclass(frozen=True, kw_only=True)
class PrimaryVerdict:
    """The answer to the study's primary comparison."""

    label: str
    """Both values of the axis and what the variants have in common: "subtraction vs. division (depthwise)"; of an
    interaction also the values that it goes across: "subtraction vs. division (relu): diffusion vs. generation"."""
    names: tuple[str, str]
    """The axis' value of the treatment and of the baseline, such as "subtraction" and "division"."""
    treatment: str
    """Variant that is judged."""
    baseline: str
    """Variant that it is judged against."""
    quantity: Literal["difference", "growth", "interaction"]
    scale: Literal["linear", "log"]
    """log: all numbers are of natural logarithms, so that exp of a difference is a ratio."""
    sides: tuple[Side, ...]
    """The two differences of an interaction, the one that is judged first; empty for another quantity."""
    metric: str
    direction: Literal["minimize", "maximize"]
    """Which way the metric is better."""
    sizes: tuple[Any, ...]
    """The size of a difference; the smallest and the largest size of a growth."""
    values: Mapping[int, float]
    """Seed -> treatment minus baseline, its growth, or its interaction."""
    deviation: float
    """Standard deviation of the values; NaN for fewer than two."""
    interval: MeanInterval
    """Mean of the values with its 95% interval, widened by `regret_low` and `regret_high`."""
    method: Method
    reason: str
    """Why there is no interval; empty where there is one."""
    outcome: Outcome
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
    """Judge the study's primary comparison.

    The values are the last ones of the metric, which the study itself looks at when it adds seeds.

    Returns:
        None where the study declares no primary comparison.
    """
    study = runs.study
    if study.primary is None:
        return None
    terms = study.primary_terms()
    metric = study.primary.metric or study.objective
    direction = next(one.direction for one in study.objectives if one.metric == metric)
    variants = [contrasts.variant(runs, term) for term in terms]
    sizes = tuple(dict.fromkeys(contrasts.size(runs, term) for term in reversed(terms)))
    contrast = contrasts.found(runs, terms, metric)
    values = contrast.values
    diverged = contrasts.diverged(runs, list(dict.fromkeys(variants)), sizes)
    interval, method, confidence = interval_of(runs, terms, metric, list(values.values()))
    found, order = choices(runs), contrasts.ordered_sizes(runs)
    tuned = [
        choice_at(found, variant, contrasts.size(runs, term), order)
        for variant, term in zip(variants, terms, strict=True)
    ]

    def at_own_best(found: MeanInterval, own: Sequence[ContrastTerm], first: int = 0) -> MeanInterval:
        """Return the interval of terms, from the first one on, at their best values; only one objective was tuned."""
        part = slice(first, first + len(own))
        return (
            at_best(found, own, contrast.levels[part], tuned[part], direction) if metric == study.objective else found
        )

    wide = at_own_best(interval, terms)
    deviation = float(np.std(list(values.values()), ddof=1)) if len(values) > 1 else nan
    has_interval = not isnan(wide.low)
    return PrimaryVerdict(
        label=contrasts.label(study, terms),
        names=contrasts.names(study, terms),
        treatment=variants[0],
        baseline=variants[1],
        quantity=study.primary.quantity,
        scale=study.primary.scale,
        sides=_sides(runs, terms, metric, list(values), at_own_best),
        metric=metric,
        direction=direction,
        sizes=sizes,
        values=values,
        deviation=deviation,
        interval=wide,
        method=method,
        reason="" if has_interval else reason(len(values)),
        outcome=judge(wide, study.primary.margin),
        margin=study.primary.margin,
        within_margin=study.primary.margin is not None and within(wide, study.primary.margin),
        looks=looks_taken(study, terms, max(ended for _, ended in diverged.values())),
        max_seeds=study.until.max_seeds if study.until else None,
        diverged=diverged,
        tuned=tuple(one for one in tuned if one),
        regret_low=interval.low - wide.low if has_interval else 0.0,
        regret_high=wide.high - interval.high if has_interval else 0.0,
        needed_deviation=needed_deviation(interval.value, len(values)),
        resolvable=resolvable(len(values), deviation, confidence=confidence) if has_interval else nan,
        seeds_needed=seeds_needed(interval.value, deviation, confidence=confidence)
        if has_interval and interval.value
        else None,
    )


def divergences(runs: StudyRuns) -> pd.DataFrame:
    """Return how many seeds diverged: `variant`, `size`, `diverged`, `seeds` (those that ended)."""
    diverged = runs.diverged.groupby(["variant", "size"])["seed"].nunique()
    counted = runs.cells.groupby(["variant", "size"])["seed"].nunique()
    table = pd.DataFrame({"diverged": diverged, "counted": counted}).fillna(0).astype(int).reset_index()
    rank = {name: i for names in (runs.variants, runs.sizes) for i, name in enumerate(names)}
    table = table.sort_values(["variant", "size"], key=lambda column: column.map(rank), na_position="last")
    table = table.assign(seeds=table["diverged"] + table["counted"])
    return table[["variant", "size", "diverged", "seeds"]].reset_index(drop=True)


def _sides(
    runs: StudyRuns,
    terms: Sequence[ContrastTerm],
    metric: str,
    seeds: Sequence[int],
    at_own_best: Callable[[MeanInterval, Sequence[ContrastTerm], int], MeanInterval],
) -> tuple[Side, ...]:
    """Return the differences of an interaction, over its seeds; none for another quantity."""
    sides = []
    for index, (name, own) in enumerate(contrasts.sides(runs.study, terms).items()):
        values = contrasts.found(runs, own, metric).values
        interval, *_ = interval_of(runs, own, metric, [values[seed] for seed in seeds])
        sides.append(Side(name=name, interval=at_own_best(interval, own, 2 * index)))
    return tuple(sides)
