"""The string under a field of a dataclass, which is its documentation: read from the source, when help is asked for."""

import ast
import inspect
import itertools
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any


def field_descriptions(cls: type[Any]) -> dict[str, str]:
    """Field of a dataclass -> the string under it, also of those that it inherits; without fields that have none."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        body = _classes(one.__module__).get(one.__qualname__, [])
        for field, under in itertools.pairwise(body):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            if isinstance(under, ast.Expr) and isinstance(under.value, ast.Constant):
                found[field.target.id] = inspect.cleandoc(str(under.value.value))
    return found


@cache
def _classes(module: str) -> dict[str, list[ast.stmt]]:
    """Qualified name of each class of a module -> its statements; empty for a module without source."""
    try:
        source = inspect.getsource(sys.modules[module])
    except (OSError, TypeError):  # built in, or installed without its source
        return {}
    return dict(_classes_in(ast.parse(source).body, ""))


def _classes_in(body: list[ast.stmt], within: str) -> Iterator[tuple[str, list[ast.stmt]]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield within + node.name, node.body
            yield from _classes_in(node.body, f"{within}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield from _classes_in(node.body, f"{within}{node.name}.<locals>.")
