"""Fields that earlier versions did not have, or had under another name.

Stores of earlier versions are read with today's names, and with the added fields at their recorded defaults. A trial's
hash is made of the names that its fields were first recorded under, without added fields at their recorded defaults. So
neither a renamed nor an added field loses a store or turns a finished cell into a new one.
"""

from collections.abc import Mapping
from copy import deepcopy
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
    "study.resources.accumulate": "study.resources.accumulate_grad_batches",
}
"""Dotted name up to version 0.1 -> today's. Only the last part of a name changes."""
REMOVED = dict.fromkeys(
    ("study.held_equal", "study.controlled"), "delete it: `lina plan` and reports list what is equal for all cells"
)
"""Dotted name of a study's field that this version lacks -> what to do. Stores that hold it are read without it."""
RECORDED = {new: old for old, new in RENAMED.items()}
ADDED: dict[str, Any] = {
    "model.parametrization": "standard",
    "model.base_dim": None,
    "optimizer.name": "adamw",
    "optimizer.options": {},
    "sampling.metrics": [],
    "trainer.rng_version": 1,
}
"""Dotted name of a field of a trial that version 0.1 did not have -> the value that stands for its absence, as plain
data. It stays as it is when the field's default changes."""


def current_name(field: str) -> str:
    """Today's dotted name of a field."""
    return RENAMED.get(field, field)


def current_names(data: Mapping[str, Any], *, within: str = "") -> dict[str, Any]:
    """Stored nested data as this version writes it: with today's names, and with the fields that were added since.

    Args:
        data: a trial, or a section of one or of a study.
        within: the section's dotted name.
    """
    prefix = f"{within}." if within else ""
    kept = {name: value for name, value in data.items() if f"{prefix}{name}" not in REMOVED}
    found: dict[str, Any] = _renamed(kept, RENAMED, within)
    for field, default in ADDED.items():
        if field.startswith(prefix):
            _add_where_missing(found, field.removeprefix(prefix).split("."), default)
    return found


def recorded(data: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's nested data as version 0.1 would have recorded it: its names, and no added field at its default."""
    plain: dict[str, Any] = _renamed(data, RECORDED, left_out=ADDED)
    return plain


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


def _renamed(value: Any, names: Mapping[str, str], within: str = "", left_out: Mapping[str, Any] | None = None) -> Any:
    """Nested data with other names, without the fields in `left_out` that have the value there; tuples become lists."""
    if isinstance(value, list | tuple):  # also of sections, such as a pattern of attentions
        return [_renamed(part, names, within, left_out) for part in value]
    if not isinstance(value, Mapping):
        return value
    found = {}
    for name, old in value.items():
        dotted = f"{within}.{name}" if within else name
        new = _renamed(old, names, dotted, left_out)
        if left_out is None or dotted not in left_out or new != left_out[dotted]:
            found[names[dotted].rpartition(".")[2] if dotted in names else name] = new
    return found


def _add_where_missing(node: Any, path: list[str], value: Any) -> None:
    """Give a section, or each of a list of sections, a field that it lacks; absent sections stay absent."""
    for section in node if isinstance(node, list) else [node]:
        if isinstance(section, dict) and len(path) == 1:
            section.setdefault(path[0], deepcopy(value))
        elif isinstance(section, dict):
            _add_where_missing(section.get(path[0]), path[1:], value)
