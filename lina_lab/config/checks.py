"""What all parts of the configuration are made with: types, errors, and the way from and to plain data."""

import json
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

T = TypeVar("T")

CHECKS = ConfigDict(extra="forbid", use_attribute_docstrings=True)

# `strict`: True is not a 1 and 3.0 is not a 3.
PositiveInt = Annotated[int, Field(gt=0, strict=True)]
NonNegativeInt = Annotated[int, Field(ge=0, strict=True)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
# YAML has no tuples.
Pair = Annotated[tuple[PositiveInt, PositiveInt], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)]


ONE, SEVERAL = "<one>", "<several>"
TAGS = (ONE, SEVERAL)
"""Marks of the two forms of a field that takes one thing or a list of them."""


def contradiction(sentence: str) -> PydanticCustomError:
    """An error for fields that are fine alone and not together; pydantic adds where they stand."""
    return PydanticCustomError("contradiction", sentence)


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass as plain YAML- and JSON-ready data: tuples become lists."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain


def from_dict(cls: type[T], data: Any, *, within: str = "") -> T:
    """Make the dataclass `cls` from plain data; `within` names where the data stands, for the errors.

    Raises:
        ValueError: one sentence that names each wrong field, what it held and what is allowed.
    """
    try:
        return TypeAdapter(cls).validate_python(data)
    except ValidationError as error:
        raise ValueError("; ".join(_sentence(e, within) for e in error.errors())) from None


def _sentence(error: Any, within: str) -> str:
    where = ".".join(str(part) for part in (within, *error["loc"]) if part not in ("", *TAGS))
    if error["type"] == "contradiction":
        return f"{where}: {error['msg']}" if where else str(error["msg"])
    if error["type"].startswith("missing"):
        return f"{where} must be given"
    if error["type"] == "value_error" and not where:
        return str(error["ctx"]["error"])
    if error["type"] == "unexpected_keyword_argument":
        return f"{where} is not a field"
    return f"{where}={error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"
