"""The string under a field is its documentation."""

import json
from dataclasses import dataclass

from lina_lab.util.docstrings import field_descriptions


@dataclass
class Parent:
    steps: int = 1
    """How many
    steps."""
    rate: float = 0.1
    "How fast."


@dataclass
class Child(Parent):
    """Not of a field."""

    rate: float = 0.2
    # Nothing is said of it here, so what the parent says holds.
    width: int = 3
    depth: int = 4
    """How deep."""


def test_a_field_has_the_string_under_it_also_one_that_is_inherited() -> None:
    assert field_descriptions(Parent) == {"steps": "How many\nsteps.", "rate": "How fast."}
    assert field_descriptions(Child) == {"steps": "How many\nsteps.", "rate": "How fast.", "depth": "How deep."}


def test_a_class_within_a_function_has_its_own_and_one_without_source_has_none() -> None:
    @dataclass
    class Parent:
        steps: int = 1
        """Another one."""

    assert field_descriptions(Parent) == {"steps": "Another one."}
    assert field_descriptions(json.JSONDecodeError) == {}
    assert field_descriptions(int) == {}
