"""The values that a study tuned for each variant and size."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from lina_lab.config import ContrastTerm
from lina_lab.decisions.contrast import widened_contrast
from lina_lab.decisions.sequential import MeanInterval
from lina_lab.decisions.tuning import Choice, ChoiceStatus, choose_all
from lina_lab.records.status import CellStatus

from ..load.runs import StudyRuns

CHOICE = ("value", "status", "curvature", "log_deviation", "regret", "seeds")
"""Columns of `tuned_rates` that a choice fills."""


@dataclass(frozen=True, kw_only=True)
class TunedRate:
    """The tuned value of a variant at a size."""

    variant: str
    size: Any
    field: str
    """The field that was tuned, such as `optimizer.lr`."""
    choice: Choice
    tried: Mapping[float, tuple[float, ...]]
    """Value -> the objective of each tuning seed; infinite where it diverged, NaN where it is missing."""


def choices(runs: StudyRuns) -> tuple[TunedRate, ...]:
    """Return the choice for each variant and size that was tuned, by the rule that the study itself follows."""
    seeds, direction = runs.study.tuning.seeds, runs.study.objectives[0].direction
    rank = {name: index for names in (runs.variants, runs.sizes) for index, name in enumerate(names)}
    groups = list(runs.tuning.groupby(["variant", "size", "field"]))
    tables = [_tried(group, seeds) for _, group in groups]
    whole = all(len(tried) > 1 for tried in tables)
    kept = [_kept(group) for _, group in groups]
    kinds = [group["kind"].iloc[0] for _, group in groups]
    chosen = (
        choose_all(tables, direction, kept, kinds) if whole else [Choice(None, ChoiceStatus.INCOMPLETE)] * len(tables)
    )
    found = [
        TunedRate(variant=str(variant), size=size, field=str(field), choice=choice, tried=tried)
        for ((variant, size, field), _), choice, tried in zip(groups, chosen, tables, strict=True)
    ]
    last = len(rank)
    return tuple(sorted(found, key=lambda one: (rank.get(one.variant, last), rank.get(one.size, last))))


def _kept(group: pd.DataFrame) -> float | None:
    """The value that the comparison was trained with; None where it has no cells."""
    compared = group["compared"].dropna()
    return None if compared.empty else float(compared.iloc[0])


def _tried(group: pd.DataFrame, seeds: Sequence[int]) -> dict[float, tuple[float, ...]]:
    """Value -> the objective of each seed; infinite where it diverged, NaN where it is missing."""
    losses = group["objective"].where(group["state"] != CellStatus.DIVERGED, math.inf)
    found: dict[float, dict[int, float]] = {}
    for value, seed, loss in zip(group["value"], group["seed"], losses, strict=True):
        found.setdefault(float(value), {})[int(seed)] = float(loss)
    # A value that was tried with other seeds only, before the study's tuning was changed, is none of its own.
    own = (value for value in sorted(found) if not found[value].keys().isdisjoint(seeds))
    return {value: tuple(found[value].get(seed, math.nan) for seed in seeds) for value in own}


def choice_at(found: Sequence[TunedRate], variant: str, size: Any, sizes: Sequence[Any]) -> TunedRate | None:
    """Return the choice that a variant was trained with at a size; None where it was not tuned.

    A size that was not tuned itself (`tuning.sizes`) has the value of the nearest one, of two equally near ones that of
    the smaller.

    Args:
        found: see `choices`.
        variant: the variant.
        size: one of `sizes`.
        sizes: values of the size axis, in its order.
    """
    mine = [one for one in found if one.variant == variant and one.size in sizes]
    place = {one: index for index, one in enumerate(sizes)}
    return min(mine, key=lambda one: (abs(place[one.size] - place[size]), place[one.size]), default=None)


def at_best(
    interval: MeanInterval,
    terms: Sequence[ContrastTerm],
    levels: Sequence[float],
    tuned: Sequence[TunedRate | None],
    direction: Literal["minimize", "maximize"],
) -> MeanInterval:
    """Return the interval of a contrast at the best values, rather than at the chosen ones.

    Args:
        interval: that at the chosen values.
        terms: the losses that are added up.
        levels: each term's mean loss.
        tuned: the choice of each term; None for one that was not tuned. An unknown regret widens nothing.
        direction: which way the losses are better.
    """
    regrets = [0.0 if one is None else one.choice.regret for one in tuned]
    return widened_contrast(interval, terms, levels, regrets, direction)


def tuned_rates(runs: StudyRuns) -> pd.DataFrame | None:
    """Return the tuned values as a table; None where nothing was tuned.

    Returns:
        `variant`, `size`, `field`, `value`, `status`, `curvature`, `log_deviation`, `regret` (see `Choice`), `seeds`,
        `tried` (the values, as text).
    """
    rows = [
        {
            **{name: getattr(one, name) for name in ("variant", "size", "field")},
            **{name: getattr(one.choice, name) for name in CHOICE},
            "tried": ", ".join(f"{value:g}" for value in one.tried),
        }
        for one in choices(runs)
    ]
    return pd.DataFrame(rows).astype({"value": float}) if rows else None
