"""One grammar, one help and one way to refuse, for every command: `field=value`, as Hydra writes it.

A command is a checked dataclass of fields and a function that takes one. Fields of fields have dots
(`model.dim=64`), lists and mappings have brackets (`classes=[1,2]`, `model={dim:64}`), and quotes hold any text.
"""

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from lina_lab.config.checks import choices, from_dict
from lina_lab.util.docstrings import field_descriptions
from lina_lab.util.errors import ConfigError
from lina_lab.util.registry import resolve

T = TypeVar("T")
MISSING = "???"
"""OmegaConf's mark of a value that must be given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command(Generic[T]):
    """A command of the `lina` script."""

    config: type[T]
    """A checked dataclass: the fields that the command takes."""
    run: Callable[[T], int] | str
    """Does the work and returns the exit code. As "package.module:function" it is imported when the command line is
    right, so that help imports nothing of it."""
    doc: str | None
    """What the command does; its help, before the list of fields."""
    errors: tuple[type[Exception], ...] = (ValueError, OSError)
    """Exceptions of `run` whose message is a sentence for the user. Any other exception is a bug and shows itself."""
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Field names of earlier versions -> today's; the old ones are refused with the new one named."""
    positional: str | None = None
    """Field whose name may be left out where it comes first, as in `lina fit points.csv`."""

    def main(self, arguments: Sequence[str]) -> int:
        """Run the command.

        Args:
            arguments: the command line without the command's name.

        Returns:
            The exit code of `run`, 0 after the help, or 2 after one sentence on what is wrong.
        """
        if {"-h", "--help"} & set(arguments):
            print(f"{(self.doc or '').strip()}\n\nFields\n{fields_help(self.config)}")
            return 0
        try:
            config = parse(self.config, self.named(arguments), renamed=self.renamed)
        except ValueError as error:
            return refuse(error)
        run: Callable[[T], int] = resolve(self.run)
        try:
            return run(config)
        except BrokenPipeError:
            raise  # whoever reads the output has gone, and needs no sentence
        except self.errors as error:
            return refuse(error)

    def named(self, arguments: Sequence[str]) -> Sequence[str]:
        """Return the arguments with the field of the first one named, where its name was left out."""
        if not self.positional or not arguments or "=" in arguments[0] or arguments[0].startswith(("-", "~")):
            return arguments
        return [f"{self.positional}={quoted(arguments[0])}", *arguments[1:]]


def parse(cls: type[T], arguments: Sequence[str], *, renamed: Mapping[str, str] | None = None) -> T:
    """Make the dataclass `cls` from a command line.

    Args:
        cls: a checked dataclass.
        arguments: each `field=value` in Hydra's grammar.
        renamed: field names of earlier versions -> today's.

    Raises:
        ValueError: one sentence on what is wrong.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    kinds = typing.get_type_hints(cls)
    data = OmegaConf.create()
    try:
        for argument in arguments:
            override = parse_override(argument)
            name = override.key_or_group
            if renamed and name in renamed:
                raise ConfigError(f"{name} is called {renamed[name]} in this version: write {renamed[name]}=VALUE")
            if override.is_sweep_override():
                raise ConfigError(f"{name} takes one value; a list is written {name}=[A,B]")
            value = parse_override(as_typed(argument, kinds.get(name))).value()
            OmegaConf.update(data, name, value, merge=True, force_add=True)
        return from_dict(cls, OmegaConf.to_container(data, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from error


def parse_override(argument: str) -> Any:
    """One argument as Hydra's `Override`.

    Raises:
        ConfigError: it is no `field=value`, or its value needs quotes.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    name, equals, value = argument.partition("=")
    if name.startswith("~"):
        raise ConfigError(f"{name} would leave the field out; give it a value")
    if not equals or name.startswith("-"):
        raise ConfigError(f"{argument} is not understood: arguments are FIELD=VALUE, and --help lists the fields")
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException as error:
        if _can_be_quoted(value):
            raise ConfigError(
                f"{argument} is not in Hydra's grammar: quote the value for Hydra and for the shell, as in "
                f"'{name}=\"{value}\"'"
            ) from None
        raise ConfigError(f"{argument} is not in Hydra's grammar: {one_line(error)}") from None


def quoted(text: str) -> str:
    """A text in quotes, for Hydra's grammar."""
    return "'{}'".format(text.replace("'", "\\'"))


def _can_be_quoted(value: str) -> bool:
    """Whether a value looks like plain text, a path for instance, that quotes would make whole."""
    return bool(value) and value[0] not in "[{\"'" and not set(value) & set("\"'\\")


def as_typed(argument: str, kind: Any, field_type: Callable[[str], Any] = lambda _: None) -> str:
    """An argument with quotes around each text that Hydra would read as a number: a folder may be called 2024.

    Args:
        argument: `field=value` in Hydra's grammar, of one value.
        kind: the field's type.
        field_type: the type of the field that a key names, where a mapping of fields holds values of any type.
    """
    name, _, value = argument.partition("=")
    return f"{name}={_quoted(value, kind, field_type)}"


def _quoted(text: str, kind: Any, field_type: Callable[[str], Any]) -> str:
    """A value, or a part of one, with these quotes."""
    kinds, bare = _options(kind), text.strip()
    if bare.startswith("["):
        held = next((typing.get_args(k)[0] for k in kinds if typing.get_origin(k) in (list, tuple)), None)
        return f"[{','.join(_quoted(part, held, field_type) for part in _split(bare[1:-1], ','))}]"
    if bare.startswith("{"):
        typed = ((key, value, entry_type(kind, key.strip(), field_type)) for key, value in mapping_parts(bare))
        entries = ((key, _quoted(value, held, field_type)) for key, value, held in typed)
        return f"{{{','.join(f'{key}:{value}' for key, value in entries)}}}"
    if str not in kinds:
        return text
    value = parse_override(f"x={bare}").value()
    numbers = (int, float, bool) if isinstance(value, bool) else (int, float)
    return f"'{bare}'" if isinstance(value, int | float) and not {*numbers} & {*kinds} else text


def entry_type(kind: Any, key: str, field_type: Callable[[str], Any]) -> Any:
    """The type of an entry of a mapping, or of a field of a dataclass; None where it has none. See `as_typed`."""
    for option in _options(kind):
        if dataclasses.is_dataclass(option):
            return typing.get_type_hints(option).get(key)
        if typing.get_origin(option) is dict:
            value, named = typing.get_args(option)[1], field_type(key)
            # Axes and rules of `exclude` hold values of the field that the key names, one or a list of them.
            holds_any = named is not None and value in (Any, list[Any])
            return named | types.GenericAlias(list, (named,)) if holds_any else value
    return None


def mapping_parts(text: str) -> list[tuple[str, str]]:
    """The names and values of a mapping in Hydra's grammar, as they are written."""
    pairs = (_split(pair, ":", 1) for pair in _split(text.strip()[1:-1], ","))
    return [(key, value) for key, value in pairs]


def _options(kind: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _split(text: str, mark: str, most: int = -1) -> list[str]:
    """Split a value where a mark is outside of quotes and brackets, at most so often; nothing has no parts."""
    parts, depth, quote, escaped = [""], 0, "", False
    for letter in text:
        if letter == mark and not (depth or quote or escaped) and len(parts) != most + 1:
            parts.append("")
            continue
        parts[-1] += letter
        if escaped or letter == "\\":
            escaped = not escaped
        elif quote or letter in "\"'":
            quote = "" if letter == quote else quote or letter
        else:
            depth += (letter in "[{(") - (letter in ")}]")
    return parts if text.strip() else []


def refuse(error: BaseException | str, code: int = 2) -> int:
    """Print one sentence on standard error; returns the exit code."""
    print(f"error: {one_line(error)}", file=sys.stderr)
    return code


def default_values(cls: Any) -> dict[str, Any]:
    """The defaults of a checked dataclass' fields as plain nested data; `???` where there is none."""
    found = {}
    for field in dataclasses.fields(cls):
        if field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
        else:
            found[field.name] = MISSING if field.default is dataclasses.MISSING else field.default
    plain: dict[str, Any] = json.loads(json.dumps(found, default=dataclasses.asdict))
    return plain


def fields_help(cls: Any, prefix: str = "", defaults: Mapping[str, Any] | None = None) -> str:
    """Each field of a checked dataclass with its default, its documentation and its choices.

    Args:
        cls: the dataclass.
        prefix: comes before each name, such as `study.`.
        defaults: where they differ from the dataclass' own.
    """
    kinds, annotated = typing.get_type_hints(cls), typing.get_type_hints(cls, include_extras=True)
    documented, parts = field_descriptions(cls), list[str]()
    for name, default in (defaults or default_values(cls)).items():
        if isinstance(default, dict) and (nested := dataclass_in(kinds[name])) is not None:
            parts.append(fields_help(nested, f"{prefix}{name}.", default))
            continue
        text, allowed = one_line(documented.get(name, "")), choices(annotated[name])
        listed = f" One of {', '.join(allowed)}." if allowed else ""
        parts.append(f"  {prefix}{name} = {shown(default)}\n      {text}{listed}")
    return "\n".join(parts)


def dataclass_in(kind: Any) -> type | None:
    """The dataclass that a field of this type holds, also where it may be null."""
    options = [kind, *typing.get_args(kind)]
    return next((option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)), None)


def shown(value: Any) -> str:
    """A value as the command line takes it: true and false, null for None."""
    if value == MISSING:
        return f"{MISSING}  (must be given)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{name}:{shown(part)}' for name, part in value.items())}}}"
    return "null" if value is None else str(value)


def one_line(error: BaseException | str) -> str:
    """An error's message as one line."""
    return " ".join(str(error).split())
