"""The fields of the study command: which there are, their defaults, and their documentation."""

import dataclasses
import difflib
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lina_lab.config import CommandConfig, PathsConfig, StudyConfig, TrialConfig
from lina_lab.config.grammar import dataclass_in, default_values, entry_type, shown
from lina_lab.config.options import GROUPS
from lina_lab.util.errors import ConfigError

SECTIONS: dict[str, Any] = {"study": StudyConfig, "paths": PathsConfig}
"""Sections besides those of a trial."""

COMMAND = typing.get_type_hints(CommandConfig)
"""Fields at the top that say what to do; no trial has them."""

TRIAL = typing.get_type_hints(TrialConfig)

NEAR = 0.7
"""Least likeness of a name that is proposed for another one (`difflib`): `pruner` is not `trainer`."""
MOST_MEANT = 3

TOP = {**SECTIONS, **TRIAL, **COMMAND}
"""Names at the top, with their types."""


def defaults() -> dict[str, Any]:
    """The schema with its default values, as plain nested data; `???` where there is none."""
    sections = {name: default_values(cls) for name, cls in SECTIONS.items()}
    return {**default_values(CommandConfig), **sections, **default_values(TrialConfig)}


def check_sections(data: Mapping[str, Any]) -> None:
    """Refuse a value at the top of a composed configuration for a name that holds fields of its own.

    Raises:
        ConfigError: how to give its fields.
    """
    for name, kind in TOP.items():
        if dataclasses.is_dataclass(kind) and not isinstance(data[name], dict):
            raise _not_a_section(name, data[name])


def field_type(name: str) -> Any:
    """The type of a field by its dotted name; None where there is no such field."""
    known, kind = TOP, None
    for part in name.split("."):
        kind = known.get(part)
        known = children(kind)
    return kind


def optional_section(key: str) -> str | None:
    """The section that may be null and that a dotted name is that of, or lies in; None where there is none."""
    parts = key.split(".")
    for name in (".".join(parts[:count]) for count in range(1, len(parts) + 1)):
        kind = field_type(name)
        if dataclass_in(kind) is not None and _is_optional(kind):
            return name
    return None


def check_field(key: str, value: Any, is_null: Callable[[str], bool] = lambda _: True) -> None:
    """Refuse a field that does not exist, or that cannot be set in this way.

    Args:
        key: dotted name.
        value: what it is to be.
        is_null: whether a section that may be null is.

    Raises:
        ConfigError: one sentence with the nearest name and the allowed ones.
    """
    known, so_far = TOP, ""
    for part in key.split("."):
        if part not in known:
            raise ConfigError(_unknown(so_far, part, known))
        kind, name = known[part], f"{so_far}{part}"
        nested = dataclass_in(kind)
        if nested is not None and _is_optional(kind) and key != name and is_null(name):
            raise ConfigError(f"{name} is null unless it is given whole, as '{name}={{FIELD:VALUE,...}}'")
        if typing.get_origin(kind) is list and (key != name or isinstance(value, dict)):
            held = typing.get_args(kind)[0]
            entry = "VALUE" if nested is None and typing.get_origin(held) is not dict else "{FIELD:VALUE}"
            raise ConfigError(f"{name} is a list, which is given whole: '{name}=[{entry},...]'")
        if nested is not None and key == name and not _may_hold(kind, value):
            raise _not_a_section(key, value)
        if nested is None and typing.get_origin(kind) is dict:
            if key == name and not isinstance(value, dict):
                raise ConfigError(f"{key}={shown(value)} is no dictionary: write '{key}={{NAME:VALUE}}'")
            return
        if nested is None and key == name and isinstance(value, dict):
            raise ConfigError(f"{key}={shown(value)} has fields, and {key} has none: write {key}=VALUE")
        known, so_far = children(kind), f"{name}."


def _unknown(so_far: str, part: str, known: Mapping[str, Any]) -> str:
    if so_far and not known:
        return f"{so_far}{part} is not a field: {so_far[:-1]} has none"
    near = [f"{so_far}{name}" for name in difflib.get_close_matches(part, known, n=1, cutoff=NEAR)]
    meant = [name for name in _leaves(TOP) if name.rpartition(".")[2] == part] or near
    hint = f" (did you mean {' or '.join(meant[:MOST_MEANT])}?)" if meant else ""
    owner = f"the fields of {so_far[:-1]} are" if so_far else "the fields are"
    names = known if so_far else dict.fromkeys([*GROUPS, *known])
    return f"{so_far}{part} is not a field{hint}; {owner} {', '.join(names)}"


def _leaves(kinds: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields that hold a value."""
    for name, kind in kinds.items():
        if fields := children(kind):
            yield from _leaves(fields, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _may_hold(kind: Any, value: Any) -> bool:
    """Whether a section may hold a value: its fields, null where it may be null, a list where it may be one."""
    if isinstance(value, list):
        return takes_list(kind)
    return isinstance(value, dict) or (value is None and _is_optional(kind))


def _is_optional(kind: Any) -> bool:
    return type(None) in typing.get_args(kind)


def _not_a_section(name: str, value: Any) -> ConfigError:
    kind, how = field_type(name), f"{name}.FIELD=VALUE"
    if typing.get_origin(kind) is list:
        how = f"'{name}=[{{FIELD:VALUE}},...]'"
    elif _is_optional(kind):
        how = f"'{name}={{FIELD:VALUE,...}}'"
    return ConfigError(f"{name}={shown(value)} is a section: give its fields, as {how}")


def children(kind: Any) -> dict[str, Any]:
    """Fields of the dataclass that a field of this type holds, with their types; none where it holds no dataclass."""
    nested = dataclass_in(kind)
    return {} if nested is None else typing.get_type_hints(nested)


def placed(name: str) -> tuple[str, str, Any]:
    """Where the value of a dotted name lies: an entry of a mapping may have dots in its own name.

    Returns:
        The name up to the innermost mapping that the value is an entry of, the entry's name there, and the type of the
        value; the whole name, "" and the type where the value is no such entry.
    """
    parts, kind = name.split("."), None
    for place, part in enumerate(parts):
        if typing.get_origin(kind) is not dict:
            kind = (children(kind) if place else TOP).get(part)
            continue
        value = typing.get_args(kind)[1]
        if typing.get_origin(value) is not dict:
            entry = ".".join(parts[place:])
            return ".".join(parts[:place]), entry, entry_type(kind, entry, field_type)
        kind = value
    return name, "", kind


def takes_list(kind: Any) -> bool:
    """Whether a field of this type may hold a list."""
    return typing.get_origin(kind) in (list, tuple) or any(takes_list(option) for option in typing.get_args(kind))


def takes_text(kind: Any) -> bool:
    """Whether a field of this type may hold text."""
    return str in (kind, *typing.get_args(kind))
