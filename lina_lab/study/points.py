"""The points of a study's grid, and a trial's nested data at each of them."""

import itertools
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import reduce
from operator import getitem
from typing import Any

from lina_lab.config import BudgetConfig, StudyConfig, TrialConfig
from lina_lab.study.cost import flops_per_image


def grid_points(study: StudyConfig, base: Mapping[str, Any], overridden: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """Cross the axes; each point is field -> value.

    Raises:
        ValueError: no point is left.
    """
    axes = [points(name, axis, base, overridden) for name, axis in study.axes.items()]
    every = [
        {field: value for point in combination for field, value in point.items()}
        for combination in itertools.product(*axes)
    ]
    kept = tuple(values for values in every if not any(matches(values, rule) for rule in study.exclude))
    if not kept:
        raise ValueError("exclude leaves no cell of the study")
    return kept


def point_key(point: Mapping[str, Any]) -> str:
    """A point as text, whatever the order of its fields."""
    return json.dumps(point, sort_keys=True)


def points(
    name: str, axis: Mapping[str, list[Any]], base: Mapping[str, Any], overridden: Sequence[str]
) -> list[dict[str, Any]]:
    """The axis' points, each a value for each of its fields."""
    points = [dict(zip(axis, values, strict=True)) for values in zip(*axis.values(), strict=True)]
    for field in axis:
        if field not in overridden:
            continue
        value = reduce(getitem, field.split("."), base)
        if len(axis) == 1:
            return [{field: value}]
        points = [point for point in points if point[field] == value]
        if not points:
            raise ValueError(f"{field}={value} is not among the values of the linked axis {name}: {axis[field]}")
    return points


def matches(values: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    """Whether a point has all values of a rule of `study.exclude`."""
    return all(values[field] in (wanted if isinstance(wanted, list) else [wanted]) for field, wanted in rule.items())


def with_values(base: Mapping[str, Any], values: Mapping[str, Any], tuned: Sequence[str] = ()) -> dict[str, Any]:
    """A copy of `base` in which each dotted field has its value; fields of `tuned` are named so where one is wrong."""
    changed = deepcopy(dict(base))
    for field, value in values.items():
        *parents, last = field.split(".")
        node = changed
        for part in parents:
            node = node.get(part) if isinstance(node, dict) else None  # type: ignore[assignment]
        if not isinstance(node, dict) or last not in node or (field in tuned and isinstance(node[last], dict)):
            raise ValueError(f"{'tune' if field in tuned else 'axes'}: {field} is not a field of a trial")
        node[last] = value
    return changed


def shared(study: StudyConfig, base: Mapping[str, Any]) -> dict[str, Any]:
    """What all cells share: a trial's fields without those that axes, tuning and seeds set."""
    varied = [field for axis in study.axes.values() for field in axis]
    shared = with_values(base, dict.fromkeys([*varied, *study.tune, "seed"]), list(study.tune))
    plain: dict[str, Any] = json.loads(json.dumps(shared))
    return plain


def with_budget(config: TrialConfig, budget: BudgetConfig) -> TrialConfig:
    """The trial with as many images as the budget allows, rounded to the nearest number."""
    if budget.unit == "images":
        cost = 1.0
    elif budget.unit == "tokens":
        cost = float(config.model.num_tokens)
    else:
        cost = float(flops_per_image(config.model))
    images = max(1, round(budget.amount / cost))
    return replace(config, trainer=replace(config.trainer, max_images=images))
