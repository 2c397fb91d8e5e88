"""What Optuna's own pages and functions read of a study: each axis and each tuned field as a parameter of its trials.

The queue itself reads attributes alone. A study whose axes grow, or that an earlier version began without parameters,
gets those of all its trials anew in a database. A journal cannot be changed: there a trial keeps what it was queued
with.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lina_lab.config import StudyConfig, current_name
from lina_lab.study.cells import CELL
from lina_lab.util.compat.optuna import add_waiting, any_without_params, rewrite_params, trial_rows

PARAMETERS = "lina.parameters"
"""Optuna's attribute of the study since version 0.3: name of a parameter -> its values so far."""
LOG_RATIO = 4
"""From this ratio of the largest to the smallest value on, a parameter has a logarithmic scale."""


def add_cells(study: optuna.Study, definition: StudyConfig | None, attributes: Sequence[dict[str, Any]]) -> list[int]:
    """Add a waiting trial for each mapping of attributes, with its parameters; returns Optuna's numbers of them.

    Args:
        study: the study in the storage.
        definition: the study's configuration; None: a version before 0.3 wrote the store, and trials get no parameters.
        attributes: see `cells.queued`.
    """
    if definition is None:
        return add_waiting(study, attributes)
    params = [parameters_of(definition, one) for one in attributes]
    known = study.user_attrs.get(PARAMETERS, {})
    values = _joined([known, _declared(definition), *map(_listed, params)])
    if values != known or any_without_params(study, CELL):
        ours = (row for row in trial_rows(study) if CELL in row.attributes)
        rows = {row.trial_id: parameters_of(definition, row.attributes) for row in ours}
        values = _joined([_declared(definition), *map(_listed, [*rows.values(), *params])], order=known)
        rewrite_params(study, rows, {name: distribution(found) for name, found in values.items()})
        study.set_user_attr(PARAMETERS, values)
    return add_waiting(study, attributes, params, {name: distribution(found) for name, found in values.items()})


def parameters_of(definition: StudyConfig, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a trial, from its attributes: axis -> value, and tuned field -> value.

    An axis of several fields has the first one's value where that tells its values apart, else their name for people.
    """
    own = {current_name(name): value for name, value in attributes.items()}
    found = {
        axis: _axis_value(definition, axis, own)
        for axis, fields in definition.axes.items()
        if all(name in own for name in fields)
    }
    return found | {name: float(own[name]) for name in definition.tune if name in own}


def distribution(values: Sequence[Any]) -> BaseDistribution:
    """The distribution of a parameter that takes these values."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return CategoricalDistribution(values)
    low, high = min(values), max(values)
    log = low > 0 and high >= LOG_RATIO * low
    if all(isinstance(value, int) for value in values):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _axis_value(definition: StudyConfig, axis: str, own: Mapping[str, Any]) -> Any:
    first, *others = definition.axes[axis]
    values = definition.axes[axis][first]
    alike = others and len({json.dumps(value) for value in values}) < len(values)
    if axis in definition.labels or alike:
        return definition.point_name(axis, own)
    value = own[first]
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value)


def _declared(definition: StudyConfig) -> dict[str, list[Any]]:
    found = {name: [float(value) for value in values] for name, values in definition.tune.items()}
    for axis, fields in definition.axes.items():
        points = (dict(zip(fields, point, strict=True)) for point in definition.points(axis))
        found[axis] = [_axis_value(definition, axis, point) for point in points]
    return found


def _listed(params: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {name: [value] for name, value in params.items()}


def _joined(
    parts: Sequence[Mapping[str, Sequence[Any]]], order: Mapping[str, Sequence[Any]] | None = None
) -> dict[str, list[Any]]:
    """Name -> the different values of all parts, in the order in which they come; those of `order` come first."""
    # As text: True is not 1.
    found: dict[str, dict[str, Any]] = {}
    for part in parts:
        for name, values in part.items():
            found.setdefault(name, {}).update({json.dumps(value): value for value in values})
    joined = {}
    for name, by_text in found.items():
        first = [key for key in map(json.dumps, (order or {}).get(name, ())) if key in by_text]
        joined[name] = [by_text[key] for key in dict.fromkeys([*first, *by_text])]
    return joined
