"""One grammar, one help and one way to refuse, for every command: `field=value`, as Hydra writes it.

A command is a checked dataclass of fields and a function that takes one. Fields of fields have dots
(`model.dim=64`), lists and mappings have brackets (`classes=[1,2]`, `model={dim:64}`), and quotes hold any text.
"""

import dataclasses
import json
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from lina_lab.config.checks import choices, from_dict
from lina_lab.util.compat.pydantic import field_descriptions
from lina_lab.util.errors import ConfigError

T = TypeVar("T")
MISSING = "???"
"""OmegaConf's mark of a value that must be given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command(Generic[T]):
    """A command of the `lina` script."""

    config: type[T]
    """A checked dataclass: the fields that the command takes."""
    run: Callable[[T], int]
    """Does the work and returns the exit code."""
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
        try:
            return self.run(config)
        except BrokenPipeError:
            raise  # whoever reads the output has gone, and needs no sentence
        except self.errors as error:
            return refuse(error)

    def named(self, arguments: Sequence[str]) -> Sequence[str]:
        """Return the arguments with the field of the first one named, where its name was left out."""
        if not self.positional or not arguments or "=" in arguments[0] or arguments[0].startswith(("-", "~")):
            return arguments
        quoted = arguments[0].replace("'", "\\'")
        return [f"{self.positional}='{quoted}'", *arguments[1:]]


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
            value = override.value()
            if isinstance(value, int | float) and _is_text(kinds.get(name)):
                value = argument.partition("=")[2]  # a folder or a run may well be called 2024
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


def _can_be_quoted(value: str) -> bool:
    """Whether a value looks like plain text, a path for instance, that quotes would make whole."""
    return bool(value) and value[0] not in "[{\"'" and not set(value) & set("\"'\\")


def _is_text(kind: Any) -> bool:
    """Whether a field holds text and no number."""
    options = typing.get_args(kind) or (kind,)
    return str in options and not {int, float, bool} & set(options)


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
    parts = []
    for name, default in (defaults or default_values(cls)).items():
        if isinstance(default, dict) and (nested := dataclass_in(kinds[name])) is not None:
            parts.append(fields_help(nested, f"{prefix}{name}.", default))
            continue
        text, allowed = one_line(field_descriptions(cls)[name] or ""), choices(annotated[name])
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
