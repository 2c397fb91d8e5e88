"""What all parts of the configuration are made with: types, errors, and the way from and to plain data."""

import dataclasses
import json
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.functional_validators import AfterValidator, BeforeValidator, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from lina_lab.util.registry import PackageError

T = TypeVar("T")

CHECKS = ConfigDict(extra="forbid")

# `strict`: True is not a 1 and 3.0 is not a 3.
PositiveInt = Annotated[int, Field(gt=0, strict=True)]
NonNegativeInt = Annotated[int, Field(ge=0, strict=True)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
# YAML has no tuples.
FROM_LIST = BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)
Pair = Annotated[tuple[PositiveInt, PositiveInt], FROM_LIST]
ONE, SEVERAL = "<one>", "<several>"
TAGS = (ONE, SEVERAL)
"""Marks of the two forms of a field that takes one thing or a list of them."""


@dataclasses.dataclass(frozen=True, eq=False)
class OneOf:
    """In `Annotated[str, OneOf(REGISTRY)]`: the field takes the names in a registry, which packages can add to.

    A built-in name is looked up alone; only another one, and an error that lists the names, look at other packages.
    """

    registry: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """For pydantic: how to check a value."""
        return core_schema.no_info_plain_validator_function(self._checked)

    def _checked(self, value: Any) -> str:
        try:
            if isinstance(value, str) and value in self.registry:
                return value
            *names, last = (repr(name) for name in self.registry)
        except PackageError as error:
            raise PydanticCustomError("package", "{sentence}", {"sentence": str(error)}) from None
        listed = f"{', '.join(names)} or {last}" if names else last
        raise PydanticCustomError("choice", "Input should be {listed}", {"listed": listed})


def matching(pattern: str, words: str) -> AfterValidator:
    """A check of a text.

    Args:
        pattern: regular expression of the whole text.
        words: what it asks for, for people.
    """

    def check(value: str) -> str:
        if re.fullmatch(pattern, value, re.DOTALL) is None:
            raise PydanticCustomError("pattern", "Input should be {words}", {"words": words})
        return value

    return AfterValidator(check)


def choices(kind: Any) -> tuple[str, ...]:
    """The names that a field of this type allows, of a `Literal` or of a registry; () where it takes other things.

    Args:
        kind: the field's type with what is annotated (`typing.get_type_hints(cls, include_extras=True)`).

    Raises:
        PackageError: an installed package's entry point for the registry cannot be used.
    """
    if typing.get_origin(kind) is typing.Literal:
        return tuple(str(name) for name in typing.get_args(kind))
    if typing.get_origin(kind) is Annotated:
        inner, *extras = typing.get_args(kind)
        named = next((tuple(extra.registry) for extra in extras if isinstance(extra, OneOf)), ())
        return named or choices(inner)
    return next((found for option in typing.get_args(kind) if (found := choices(option))), ())


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class Checked:
    """A part of the configuration whose fields may be valid alone and not together."""

    def _problems(self) -> Iterator[str]:
        """A sentence for each contradiction. Only the first is asked for, and pydantic adds where it is."""
        yield from ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (sentence := next(self._problems(), None)) is not None:
            raise PydanticCustomError("contradiction", "{sentence}", {"sentence": sentence})
        return self


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass as plain YAML- and JSON-ready data: tuples become lists."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_dict(cls: type[T], data: Any, *, within: str = "") -> T:
    """Make the dataclass `cls` from plain data.

    Args:
        cls: a pydantic dataclass.
        data: nested mappings and lists.
        within: name of the section that the data is, for the messages.

    Raises:
        ValueError: one sentence that names each wrong field, what it held and what is allowed.
    """
    try:
        return TypeAdapter(cls).validate_python(data)
    except ValidationError as error:
        raise ValueError("; ".join(_sentence(e, within) for e in error.errors())) from None


def _sentence(error: Any, within: str) -> str:
    where = ".".join(str(part) for part in (within, *error["loc"]) if part not in ("", *TAGS))
    if error["type"].startswith("missing"):
        return f"{where} must be given"
    if error["type"] in ("contradiction", "value_error"):
        sentence = str(error["ctx"].get("error", error["msg"]))
        return f"{where}: {sentence}" if where else sentence
    if error["type"] == "unexpected_keyword_argument":
        return f"{where} is not a field"
    return f"{where}={error['input']!r}: {_in_words(error)}"


def _in_words(error: Any) -> str:
    """What pydantic says of a value, with how to write a right one where it does not say that."""
    kind, value = error["type"], error["input"]
    said = f"{error['msg'][0].lower()}{error['msg'][1:]}"
    if kind in ("list_type", "tuple_type"):
        return f"input should be a list, as in [{'A,B' if isinstance(value, dict) else value}]"
    if kind == "string_type":
        return "input should be text" + ("; in a file, put it in quotes" if isinstance(value, int | float) else "")
    if kind in ("dict_type", "dataclass_type"):
        return "input should be a dictionary, as in {NAME:VALUE}"
    if kind.startswith("bool"):
        return "input should be true or false"
    if kind.startswith("int") and isinstance(value, float) and value.is_integer():
        return f"input should be a valid integer, which is written {int(value)}"
    return said.partition(" after validation")[0]
