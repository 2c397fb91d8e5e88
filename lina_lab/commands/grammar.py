"""Commands of `field=value`, with dots for fields of fields: a checked dataclass says what a command takes."""

import dataclasses
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lina_lab.config import from_dict

T = TypeVar("T")


def parse(cls: type[T], arguments: Sequence[str]) -> T:
    """The dataclass `cls` with the fields that `arguments` give.

    Raises:
        ValueError: one sentence on what is wrong.
    """
    try:
        return from_dict(cls, OmegaConf.to_container(OmegaConf.from_dotlist(list(arguments))))
    except (OmegaConfBaseException, YAMLError) as error:
        raise ValueError(str(error)) from error


def command(
    run: Callable[[T], int],
    cls: type[T],
    doc: str | None,
    arguments: Sequence[str],
    *,
    errors: tuple[type[Exception], ...] = (ValueError, OSError),
) -> int:
    """Run a command.

    Args:
        run: takes what was given and returns the exit status.
        cls: the dataclass of what the command takes.
        doc: its help, to which the fields are added.
        arguments: the command line.
        errors: what `run` raises with a sentence for the user; anything else is a fault of ours, and shows itself.

    Returns:
        `run`'s status, or 2 behind one sentence on what is wrong.
    """
    if {"-h", "--help"} & set(arguments):
        print(f"{(doc or '').strip()}\n\nFields\n{fields_help(cls)}")
        return 0
    try:
        given = parse(cls, arguments)
    except ValueError as error:
        return refuse(error)
    try:
        return run(given)
    except errors as error:
        return refuse(error)


def refuse(error: BaseException | str) -> int:
    """One sentence on standard error; 2."""
    print(f"error: {one_line(error)}", file=sys.stderr)
    return 2


def fields_help(cls: Any) -> str:
    """What a command takes: each field with its default, its documentation and its choices."""
    kinds = typing.get_type_hints(cls)
    return "\n".join(
        f"  {field.name} = {_shown(field)}\n      {documentation(cls, field.name, kinds[field.name])}"
        for field in dataclasses.fields(cls)
    )


def documentation(cls: Any, name: str, kind: Any) -> str:
    """A field's documentation, and its choices where it has some."""
    doc = " ".join((cls.__pydantic_fields__[name].description or "").split())
    options = [kind, *typing.get_args(kind)]
    choices = next((typing.get_args(option) for option in options if typing.get_origin(option) is typing.Literal), ())
    return f"{doc} One of {', '.join(map(str, choices))}." if choices else doc


def one_line(error: BaseException | str) -> str:
    """An error's message as one line."""
    return " ".join(str(error).split())


def _shown(field: "dataclasses.Field[Any]") -> str:
    if field.default is dataclasses.MISSING:
        return "???  (must be given)"
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return "null" if field.default is None else str(field.default)
