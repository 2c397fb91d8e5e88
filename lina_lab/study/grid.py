"""From a study's axes to its cells."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import reduce
from operator import getitem
from typing import Any

from lina_lab.config import BudgetConfig, StudyConfig, TrialConfig, from_dict
from lina_lab.config.metrics import METRICS
from lina_lab.config.model import mixed_widths


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One point of the grid with one seed."""

    config_hash: str
    """Hash of the configuration."""
    axes: dict[str, Any]
    """Field -> value, for the fields that the study varies."""
    config: TrialConfig
    label: str
    """A short name for people, such as `division none 32 seed 0`; no program reads it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study with all its cells."""

    study: StudyConfig
    base: dict[str, Any]
    """What all cells share: the trial's fields without axes and seed."""
    cells: tuple[Cell, ...]

    def digest(self) -> str:
        """A short hash of all cells."""
        return hashlib.sha256(" ".join(cell.config_hash for cell in self.cells).encode()).hexdigest()[:12]


def make_plan(study: StudyConfig, base: Mapping[str, Any], overridden: Sequence[str] = ()) -> Plan:
    """Cross the axes and the seeds.

    Args:
        study: the study.
        base: the trial's fields as plain nested data.
        overridden: fields that the command line fixes: an axis that varies one keeps only the value in `base`.

    Raises:
        ValueError: an axis varies an unknown field, a trial refuses a value, or two cells are equal.
    """
    axes = [_points(name, axis, base, overridden) for name, axis in study.axes.items()]
    size_field = next(iter(study.axes[study.size_axis]))
    points = [
        {field: value for point in combination for field, value in point.items()}
        for combination in itertools.product(*axes)
    ]
    kept = [values for values in points if not any(_matches(values, rule) for rule in study.exclude)]
    if not kept:
        raise ValueError("exclude leaves no cell of the study")
    cells: dict[str, Cell] = {}
    # Seeds are outermost: a study that is stopped early has complete grids.
    seeds = [study.seeds_at_size.get(str(values[size_field]), study.seeds) for values in kept]
    every = [base["seed"]] if "seed" in overridden else list(dict.fromkeys(seed for own in seeds for seed in own))
    for seed, (values, own) in itertools.product(every, list(zip(kept, seeds, strict=True))):
        if seed not in own and "seed" not in overridden:
            continue
        config = from_dict(TrialConfig, _with_values(base, {**values, "seed": seed}))
        if study.budget is not None:
            config = _with_budget(config, study.budget)
        label = " ".join([*(study.point_name(axis, values) for axis in study.axes), f"seed {seed}"])
        cell = Cell(config_hash=config.config_hash(), axes=values, config=config, label=label)
        _check_measured(study, config)
        if cell.config_hash in cells:
            raise ValueError(f"two cells of the study are equal: {cell.label}")
        cells[cell.config_hash] = cell
    if (problem := mixed_widths(cell.config.model for cell in cells.values())) is not None:
        raise ValueError(problem)
    return Plan(study=study, base=_shared(study, base), cells=tuple(cells.values()))


def _matches(values: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    return all(values[field] in (wanted if isinstance(wanted, list) else [wanted]) for field, wanted in rule.items())


def _with_budget(config: TrialConfig, budget: BudgetConfig) -> TrialConfig:
    """The trial with as many images as the budget allows, rounded to the nearest number."""
    if budget.unit == "images":
        cost = 1.0
    elif budget.unit == "tokens":
        cost = float(config.model.num_tokens)
    else:
        # Imports torch, which most studies are planned without.
        from lina_lab.study.cost import flops_per_image

        cost = float(flops_per_image(config.model))
    images = max(1, round(budget.amount / cost))
    return replace(config, trainer=replace(config.trainer, max_images=images))


def _points(
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


def _with_values(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `base` in which each dotted field has its value."""
    changed = deepcopy(dict(base))
    for field, value in values.items():
        *parents, last = field.split(".")
        node = changed
        for part in parents:
            node = node.get(part) if isinstance(node, dict) else None  # type: ignore[assignment]
        if not isinstance(node, dict) or last not in node:
            raise ValueError(f"axes: {field} is not a field of a trial")
        node[last] = value
    return changed


def _check_measured(study: StudyConfig, config: TrialConfig) -> None:
    for objective in study.objectives:
        if (field := METRICS[objective.metric].not_measured(config.sampling)) is not None:
            raise ValueError(f"study.objectives names {objective.metric}, which {field} does not measure")


def _shared(study: StudyConfig, base: Mapping[str, Any]) -> dict[str, Any]:
    varied = [field for axis in study.axes.values() for field in axis]
    shared = _with_values(base, dict.fromkeys([*varied, "seed"]))
    plain: dict[str, Any] = json.loads(json.dumps(shared))
    return plain
