"""pydantic 2.14: the fields of a dataclass with their docstrings.

Public: `TypeAdapter.json_schema`, which fails for fields of other types than JSON has. Missing: `model_fields` for
dataclasses.
"""

from collections.abc import Mapping
from typing import Any


def field_descriptions(cls: type[Any]) -> Mapping[str, str | None]:
    """Field of a pydantic dataclass -> its docstring (`__pydantic_fields__`); None: it has none."""
    return {name: field.description for name, field in cls.__pydantic_fields__.items()}
