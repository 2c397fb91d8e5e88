"""Names that fields had in earlier versions.

Stores of earlier versions are read with today's names, and a trial's hash is still made of the names that its field was
first recorded under: so a renamed field neither loses a store nor makes a finished cell a new one.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from lina_lab.config.checks import from_dict

T = TypeVar("T")

RENAMED = {
    "model.checkpoint": "model.gradient_checkpointing",
    "model.noise_draws": "model.noise_samples_per_token",
    "model.condition_drop": "model.condition_dropout",
    "sampling.steps": "sampling.ar_steps",
    "sampling.flow_steps": "sampling.ode_steps",
    "sampling.guidance": "sampling.guidance_scale",
    "sampling.min_guidance": "sampling.guidance_scale_start",
    "study.held_equal": "study.controlled",
    "study.resources.accumulate": "study.resources.accumulate_grad_batches",
}
"""Dotted name up to version 0.1 -> today's. Only the last part of a name changes."""
RECORDED = {new: old for old, new in RENAMED.items()}


def current_name(field: str) -> str:
    """Today's dotted name of a field."""
    return RENAMED.get(field, field)


def current_names(data: Mapping[str, Any], *, within: str = "") -> dict[str, Any]:
    """Stored nested data with today's names; `within` is the dotted name of the section that it is."""
    return _renamed(data, RENAMED, within)


def recorded_names(data: Mapping[str, Any], *, within: str = "") -> dict[str, Any]:
    """Nested data with the names that its fields were first recorded under."""
    return _renamed(data, RECORDED, within)


def from_stored(cls: type[T], data: Mapping[str, Any], *, within: str = "") -> T:
    """Make the dataclass `cls` from data that this version or an earlier one stored.

    Raises:
        ValueError: see `from_dict`.
    """
    return from_dict(cls, current_names(data, within=within), within=within)


def study_from_stored(cls: type[T], data: Mapping[str, Any]) -> T:
    """As `from_stored`, of a study's definition, whose axes and exclusions hold names of fields.

    Raises:
        ValueError: see `from_dict`.
    """
    axes = {axis: {current_name(f): v for f, v in fields.items()} for axis, fields in data["axes"].items()}
    exclude = [{current_name(f): v for f, v in rule.items()} for rule in data.get("exclude", [])]
    return from_stored(cls, {**data, "axes": axes, "exclude": exclude}, within="study")


def _renamed(data: Mapping[str, Any], names: Mapping[str, str], within: str) -> dict[str, Any]:
    found = {}
    for name, value in data.items():
        dotted = f"{within}.{name}" if within else name
        key = names[dotted].rpartition(".")[2] if dotted in names else name
        found[key] = _renamed(value, names, dotted) if isinstance(value, Mapping) else value
    return found
