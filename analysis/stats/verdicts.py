"""What a study may say: the verdict of its primary comparison, and everything else as exploratory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isnan, nan
from typing import Any, Literal

import numpy as np
import pandas as pd

from lina_lab.config import ContrastTerm, StudyConfig
from lina_lab.config.primary import other_sizes
from lina_lab.decisions.moderated import FEW_SEEDS, moderated_interval
from lina_lab.decisions.power import resolvable, seeds_needed
from lina_lab.decisions.sequential import MeanInterval, look_levels, looks, mean_interval, sequential_interval
from lina_lab.decisions.verdicts import Outcome, judge, within

from ..load.labels import as_text
from ..load.runs import StudyRuns
from . import contrasts
from .paired import COMPARED, holm, mean_differences, paired_differences, size_trends
from .tuned import TunedRate, at_best, choice_at, choices

ONE_SEED = "one seed"
EQUAL_SEEDS = "all seeds differ by the same amount, so their spread says nothing"
NO_SEED = "no seed has all the cells of the comparison"


HOLM_LEVEL = 0.05
EXPLORATORY = [
    *COMPARED,
    *("kind", "smallest", "largest", "difference", "block_se", "seed_se", "low", "high", "p", "seeds", "excludes_zero"),
    *("needed_deviation", "holm", "outcome", "reason"),
]
"""Columns of `exploratory`."""


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
    quantity: Literal["difference", "growth", "interaction"]
    metric: str
    direction: Literal["minimize", "maximize"]
    """Which way the metric is better."""
    sizes: tuple[Any, ...]
    """The size of a difference; the smallest and the largest size of a growth."""
    values: Mapping[int, float]
    """Seed -> treatment minus baseline, or its growth."""
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
    # The first two terms are the treatment and the baseline, at the largest size of a growth.
    variants = [contrasts.variant(runs, term) for term in terms]
    sizes = tuple(dict.fromkeys(contrasts.size(runs, term) for term in reversed(terms)))
    contrast = contrasts.found(runs, terms, metric)
    values = contrast.values
    diverged = contrasts.diverged(runs, variants[:2], sizes)
    interval, method, confidence = _interval(runs, terms, metric, list(values.values()))
    found, order = choices(runs), contrasts.ordered_sizes(runs)
    tuned = [
        choice_at(found, variant, contrasts.size(runs, term), order)
        for variant, term in zip(variants, terms, strict=True)
    ]
    wide = at_best(interval, terms, contrast.levels, tuned, direction) if metric == study.objective else interval
    deviation = float(np.std(list(values.values()), ddof=1)) if len(values) > 1 else nan
    has_interval = not isnan(wide.low)
    return PrimaryVerdict(
        label=contrasts.label(study, terms),
        treatment=variants[0],
        baseline=variants[1],
        quantity=study.primary.quantity,
        metric=metric,
        direction=direction,
        sizes=sizes,
        values=values,
        deviation=deviation,
        interval=wide,
        method=method,
        reason="" if has_interval else _reason(len(values)),
        outcome=judge(wide, study.primary.margin),
        margin=study.primary.margin,
        within_margin=study.primary.margin is not None and within(wide, study.primary.margin),
        looks=_looks_taken(study, terms, max(ended for _, ended in diverged.values())),
        max_seeds=study.until.max_seeds if study.until else None,
        diverged=diverged,
        tuned=tuple(one for one in tuned if one),
        regret_low=interval.low - wide.low if has_interval else 0.0,
        regret_high=wide.high - interval.high if has_interval else 0.0,
        needed_deviation=_needed_deviation(interval.value, len(values)),
        resolvable=resolvable(len(values), deviation, confidence=confidence) if has_interval else nan,
        seeds_needed=seeds_needed(interval.value, deviation, confidence=confidence)
        if has_interval and interval.value
        else None,
    )


def exploratory(runs: StudyRuns, differences: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return every comparison that is not the primary one, Holm-corrected as one family.

    The family is the table: every axis, size and metric, differences and growth. Variances are not pooled over sizes
    here: at the small levels of a family, unequal noise would make many false statements.

    Args:
        runs: the study.
        differences: see `paired.paired_differences`; None: they are taken from the study.

    Returns:
        `paired.COMPARED` and `kind` (`Kind`), `smallest`, `largest` (sizes of a growth, whose `size` is the largest;
        NaN for a difference), `difference`, `block_se`, `seed_se`, `low`, `high` (95% interval of this row alone), `p`,
        `seeds`, `excludes_zero` (that interval), `needed_deviation` (a deviation over seeds above this would be needed
        to explain the difference by the seed), `holm`, `outcome` (`Outcome`, after the correction), `reason` (why there
        is no interval, or empty).
    """
    table = family(paired_differences(runs) if differences is None else differences, runs.sizes)
    return corrected(table[~_is_primary(runs, table)].reset_index(drop=True))


def family(differences: pd.DataFrame, sizes: Sequence[Any]) -> pd.DataFrame:
    """Return every difference and growth with its own interval: the columns of `exploratory` up to `excludes_zero`.

    Args:
        differences: see `paired.paired_differences`.
        sizes: all sizes, the smallest first.
    """
    parts = [mean_differences(differences).assign(kind=Kind.DIFFERENCE)]
    for kind, column in ((Kind.GROWTH, "difference"), (Kind.LOG_GROWTH, "log_ratio")):
        trends = size_trends(differences, sizes, column)
        parts.append(trends.assign(kind=kind, size=trends["largest"]))
    table = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return table.reindex(columns=EXPLORATORY[: EXPLORATORY.index("needed_deviation")])


def corrected(table: pd.DataFrame) -> pd.DataFrame:
    """Return a family of tests with what holds of it after Holm's correction.

    Args:
        table: see `family`.
    """
    difference, seeds = table["difference"].astype(float), table["seeds"].astype(int)
    adjusted = holm(table["p"].astype(float))
    outcome = np.where(difference < 0, Outcome.LOWER, Outcome.HIGHER)
    outcome = np.where(adjusted <= HOLM_LEVEL, outcome, Outcome.UNDECIDED)
    return table.assign(
        needed_deviation=_needed_deviation(difference, seeds),
        holm=adjusted,
        outcome=np.where(adjusted.isna(), Outcome.NO_INTERVAL, outcome),
        reason=[_reason(count) if missing else "" for count, missing in zip(seeds, adjusted.isna(), strict=True)],
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


def _interval(
    runs: StudyRuns, terms: Sequence[ContrastTerm], metric: str, values: Sequence[float]
) -> tuple[MeanInterval, Method, float]:
    """Return the interval before it is widened, how it was made, and the confidence of the test at the last look."""
    study = runs.study
    if study.until is not None:
        planned = _planned_looks(study, terms)
        return sequential_interval(values, planned), Method.SEQUENTIAL, 1 - look_levels(planned)[-1]
    others = [list(contrasts.found(runs, at_size, metric).values.values()) for at_size in other_sizes(study, terms)]
    if len(values) < FEW_SEEDS and any(len(other) > 1 for other in others):
        return moderated_interval(values, others), Method.MODERATED, 0.95
    return mean_interval(values), Method.STUDENT, 0.95


def _planned_looks(study: StudyConfig, terms: Sequence[ContrastTerm]) -> tuple[int, ...]:
    """Return the numbers of seeds at which the study looks; it starts with the seeds that all terms' cells share."""
    assert study.until is not None
    field = next(iter(study.axes[study.size_axis]))
    own = [study.seeds_at_size.get(as_text(term.values[field]), study.seeds) for term in terms]
    first = len(set.intersection(*map(set, own)))
    return looks(first, max(study.until.max_seeds, first), study.until.step)


def _looks_taken(study: StudyConfig, terms: Sequence[ContrastTerm], seeds: int) -> int:
    return max(1, sum(count <= seeds for count in _planned_looks(study, terms))) if study.until else 1


def _is_primary(runs: StudyRuns, table: pd.DataFrame) -> "pd.Series[bool]":
    """Return which rows hold the primary comparison, in either direction."""
    if runs.study.primary is None:
        return pd.Series(False, index=table.index)
    terms, metric = runs.study.primary_terms(), runs.study.primary.metric or runs.study.objective
    pair = {contrasts.variant(runs, term) for term in terms}
    kind = Kind.DIFFERENCE if runs.study.primary.quantity == "difference" else Kind.GROWTH
    same = table["treatment"].isin(pair) & table["baseline"].isin(pair) & (table["metric"] == metric)
    found: pd.Series[bool] = same & (table["kind"] == kind) & (table["size"] == contrasts.size(runs, terms[0]))
    return found


def _needed_deviation(difference: Any, seeds: Any) -> Any:
    """Return the deviation over seeds above which the mean of these seeds would not be told from 0."""
    return abs(difference) * seeds**0.5 / 1.96


def _reason(seeds: int) -> str:
    return {0: NO_SEED, 1: ONE_SEED}.get(seeds, EQUAL_SEEDS)
