"""Racing over seeds: variants that are resolved as worse than the best one are trained on no more seeds.

Variants are compared on the same seeds, so differences are paired. They are looked at after each block of seeds, and
the interval at each look is a repeated confidence interval (`decisions.sequential`), valid for all looks together. The
level is divided by the number of pairs of variants (Bonferroni): the best variant at a look is chosen by the results,
so a variant may be compared with any other.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Generic, TypeVar

import numpy as np

from lina_lab.decisions.sequential import MeanInterval, looks, sequential_interval
from lina_lab.decisions.tuning import Direction, widened
from lina_lab.decisions.verdicts import Outcome, judge

V = TypeVar("V")


@dataclass(frozen=True, kw_only=True)
class Dropped(Generic[V]):
    """Why a variant left the race."""

    best: V
    """The variant that it was compared with."""
    seeds: int
    """Seeds that it was trained on, diverged ones included."""
    interval: MeanInterval
    """The variant minus the best one."""


@dataclass(frozen=True, kw_only=True)
class Race(Generic[V]):
    """How a race stands."""

    due: int
    """Seeds that the variants in the race are to train so far."""
    dropped: Mapping[V, Dropped[V]]
    """Variants that have left it."""
    looked: int
    """Looks that were taken."""


def planned_looks(seeds: int, block: int) -> tuple[int, ...]:
    """The numbers of seeds after which a race is looked at: each block but the last, after which nothing is left.

    Args:
        seeds: seeds of each variant.
        block: seeds between two looks.
    """
    last = (seeds - 1) // block * block
    return looks(block, last, block) if last else ()


def race(
    losses: Mapping[V, Sequence[float | None]],
    *,
    block: int,
    level: float,
    direction: Direction = "minimize",
    spared: Collection[V] = (),
    regrets: Mapping[V, float] | None = None,
) -> Race[V]:
    """Go through the looks of a race, as far as results go.

    A pure function. More results only go on from where fewer have led to.

    Args:
        losses: variant -> objective of each seed, in the same order of the seeds for all. NaN: it diverged, and the
            differences of that seed are missing. None: it has not ended.
        block: seeds between two looks.
        level: chance that any variant leaves the race that is as good as the one that it is compared with.
        direction: whether small or large objectives are good.
        spared: variants that never leave it. Others are compared with them too.
        regrets: what each may be better at its own best tuned value, see `tuning.widened`.
    """
    seeds = max(map(len, losses.values()), default=0)
    plan, racing = planned_looks(seeds, block), list(losses)
    pairs = len(racing) * (len(racing) - 1) / 2
    dropped: dict[V, Dropped[V]] = {}
    for taken, look in enumerate(plan):
        if all(variant in spared for variant in racing) or len(racing) < 2:
            return Race(due=seeds, dropped=dropped, looked=taken)
        rows = {variant: _ended(losses[variant][:look]) for variant in racing}
        if any(row is None for row in rows.values()):
            return Race(due=look, dropped=dropped, looked=taken)
        found = {variant: row for variant, row in rows.items() if row is not None}
        best = _best(found, direction)
        for variant in [v for v in racing if v != best and v not in spared]:
            differences = [a - b for a, b in zip(found[variant], found[best], strict=True) if isfinite(a - b)]
            interval = sequential_interval(differences, plan, 1 - level / pairs)
            if regrets is not None:
                interval = widened(interval, regrets[variant], regrets[best], direction)
            if judge(interval) is (Outcome.HIGHER if direction == "minimize" else Outcome.LOWER):
                dropped[variant] = Dropped(best=best, seeds=look, interval=interval)
                racing.remove(variant)
    return Race(due=seeds, dropped=dropped, looked=len(plan))


def _ended(values: Sequence[float | None]) -> list[float] | None:
    """The values; None if one of the seeds has not ended."""
    ended = [value for value in values if value is not None]
    return ended if len(ended) == len(values) else None


def _best(rows: Mapping[V, Sequence[float]], direction: Direction) -> V:
    """The variant with the fewest diverged seeds, and of these the one with the best mean."""
    sign = 1 if direction == "minimize" else -1

    def rank(variant: V) -> tuple[int, float]:
        finite = [value for value in rows[variant] if isfinite(value)]
        return len(rows[variant]) - len(finite), sign * float(np.mean(finite)) if finite else 0.0

    return min(rows, key=rank)
