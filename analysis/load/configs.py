"""A cell's configuration, as its run in MLflow holds it."""

import ast
import json
from collections.abc import Mapping
from functools import cache, lru_cache
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

from lina_lab.config.fields import field_type
from lina_lab.records.runstore import config_from_tags

if TYPE_CHECKING:
    from mlflow.entities import Run


def stored_config(run: "Run") -> dict[str, Any]:
    """Return the configuration of a cell as plain nested data, under the field names that were stored.

    Stores of version 0.1 have no tag that holds it. Their configuration is read from MLflow's parameters.
    """
    config = config_from_tags(run.data.tags)
    return from_parameters(run.data.params) if config is None else config


def config_json(run: "Run") -> str:
    """Return the configuration of a cell without its seed, as JSON: equal for all seeds of a point of the grid."""
    if (config := config_from_tags(run.data.tags)) is None:
        return _json_of_parameters(tuple(pair for pair in sorted(run.data.params.items()) if pair[0] != "seed"))
    config.pop("seed", None)
    return json.dumps(config)


@lru_cache(maxsize=8192)
def _json_of_parameters(params: tuple[tuple[str, str], ...]) -> str:
    return json.dumps(from_parameters(dict(params)))


def from_parameters(params: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration that MLflow's parameters hold as text (stores of version 0.1).

    Text is ambiguous: 2024 may be a number or a folder. The fields' types decide where they allow text only; any other
    parameter is a Python literal, or a word.
    """
    nested: dict[str, Any] = {}
    for name, text in params.items():
        *parts, last = name.split(".")
        section = nested
        for part in parts:
            section = section.setdefault(part, {})
        section[last] = (None if text == "None" else text) if _holds_text(name) else _literal(text)
    return nested


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@cache
def _holds_text(name: str) -> bool:
    """Return whether a field holds any text, or any text or nothing."""
    kind = field_type(name)
    return kind is str or set(get_args(kind)) == {str, NoneType}
