"""The fields of the study command: which there are, their defaults, and their documentation."""

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from lina_lab.config import CommandConfig, PathsConfig, StudyConfig, TrialConfig, to_dict
from lina_lab.config.grammar import documentation, field_help, shown
from lina_lab.util.errors import ConfigError

SECTIONS: dict[str, Any] = {"study": StudyConfig, "paths": PathsConfig}
"""Sections besides those of a trial."""

COMMAND = typing.get_type_hints(CommandConfig)
"""Fields at the top that say what to do; no trial has them."""

TRIAL = typing.get_type_hints(TrialConfig)

MISSING = "???"
"""OmegaConf's mark of a value that must be given."""


def defaults() -> dict[str, Any]:
    """The schema with its default values, as plain nested data; `???` where there is none."""
    parts: dict[str, Any] = {"seed": 0, "paths": to_dict(PathsConfig()), **to_dict(CommandConfig())}
    for name, kind in TRIAL.items():
        if dataclasses.is_dataclass(kind):
            parts[name] = to_dict(typing.cast(Any, kind)())
    parts["study"] = {field.name: _default(field) for field in dataclasses.fields(StudyConfig)}
    return parts


def sections() -> list[str]:
    """Names at the top that hold fields of their own."""
    return [*SECTIONS, *(name for name, kind in {**COMMAND, **TRIAL}.items() if dataclasses.is_dataclass(kind))]


def fields_help() -> str:
    """Each field: dotted name, default, documentation, choices."""
    kinds = {**COMMAND, **SECTIONS, **TRIAL}
    return "\n".join(field_help(*field) for field in _documented("", kinds, defaults()))


def field_type(name: str) -> Any:
    """The type of a field by its dotted name; None where there is no such field."""
    node: Any = None
    for part in name.split("."):
        kind = children(node).get(part)
        node = dataclass_in(kind)
    return kind


def check_field(key: str, value: Any) -> None:
    """Refuse a field that does not exist, or that cannot be set in this way.

    Args:
        key: dotted name.
        value: what it is to be.

    Raises:
        ConfigError: one sentence with the nearest name and the allowed ones.
    """
    node: Any = None
    so_far = ""
    for part in key.split("."):
        known = children(node)
        if part not in known:
            raise ConfigError(_unknown(so_far, part, known))
        kind, name = known[part], f"{so_far}{part}"
        nested = dataclass_in(kind)
        if nested is not None and type(None) in typing.get_args(kind) and key != name:
            raise ConfigError(f"{name} is null unless it is given whole, as '{name}={{FIELD:VALUE,...}}'")
        if nested is kind and key == name and not isinstance(value, dict):
            raise not_a_section(key, value)
        if nested is None and is_mapping(kind):
            if value == {}:
                raise ConfigError(f"{key}={{}} changes nothing: name the fields and their values")
            return
        node, so_far = nested or (), f"{name}."


def _unknown(so_far: str, part: str, known: Mapping[str, Any]) -> str:
    if so_far and not known:
        return f"{so_far}{part} is not a field: {so_far[:-1]} has none"
    near = difflib.get_close_matches(part, known, n=1)
    hint = f" (did you mean {so_far}{near[0]}?)" if near else ""
    owner = f"the fields of {so_far[:-1]} are" if so_far else "the fields are"
    return f"{so_far}{part} is not a field{hint}; {owner} {', '.join(known)}"


def not_a_section(name: str, value: Any) -> ConfigError:
    """The refusal of a value for a name that holds fields."""
    return ConfigError(f"{name}={value} is a section: give its fields, as {name}.FIELD=VALUE")


def children(node: Any) -> dict[str, Any]:
    """Fields of a dataclass with their types; of None: those at the top."""
    if node is None:
        return {**SECTIONS, **TRIAL, **COMMAND}
    return typing.get_type_hints(node) if dataclasses.is_dataclass(node) else {}


def dataclass_in(kind: Any) -> type | None:
    """The dataclass that a field of this type holds, also where it may be null."""
    options = [kind, *typing.get_args(kind)]
    return next((option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)), None)


def is_mapping(kind: Any) -> bool:
    """Whether a field holds names of the user's own."""
    return typing.get_origin(kind) is dict


def takes_list(kind: Any) -> bool:
    """Whether a field of this type may hold a list."""
    return typing.get_origin(kind) in (list, tuple) or any(takes_list(option) for option in typing.get_args(kind))


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
        return [to_dict(part) for part in value] if isinstance(value, list) else value
    if field.default is dataclasses.MISSING:
        return MISSING
    return to_dict(field.default) if dataclasses.is_dataclass(field.default) else field.default


def _documented(prefix: str, kinds: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, kind in kinds.items():
        nested = dataclass_in(kind)
        if isinstance(values[name], dict) and nested is not None:
            yield from _documented(f"{prefix}{name}.", children(nested), values[name])
            continue
        owner: Any = (
            dataclass_in(field_type(prefix[:-1])) if prefix else CommandConfig if name in COMMAND else TrialConfig
        )
        yield f"{prefix}{name}", shown(values[name]), documentation(owner, name, kind)
