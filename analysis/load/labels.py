"""Readable names of variants, made from the names of axes and their values."""

import json
from collections.abc import Mapping
from typing import Any

from lina_lab.config import StudyConfig


def variant_label(study: StudyConfig, values: Mapping[str, Any]) -> str:
    """Name a variant by its value of each axis but the size's, such as "division, no convolution".

    Args:
        study: its axes, and the labels that it gives their values.
        values: field -> value, for every varied field.
    """
    return ", ".join(axis_label(study, axis, values) for axis in study.axes if axis != study.size_axis) or "all"


def axis_label(study: StudyConfig, axis: str, values: Mapping[str, Any]) -> str:
    """Name a value of an axis: by the study's label, or by as many of its fields as tell it from the other values."""
    if axis in study.labels:
        return study.point_name(axis, values)
    fields = list(study.axes[axis])
    point, points = tuple(values[field] for field in fields), study.points(axis)
    needed = len(fields)
    if point in points:
        needed = next(n for n in range(1, needed + 1) if n == needed or _count(points, point[:n]) == 1)
    # The axis is called after its first field; further ones need their own names.
    nouns = [axis, *(field.rpartition(".")[2] for field in fields[1:])]
    return ", ".join(_value_label(noun, value) for noun, value in list(zip(nouns, point, strict=True))[:needed])


def labels_by_axis(study: StudyConfig, texts: Mapping[str, str]) -> dict[str, str]:
    """Name the value of each axis but the size's.

    Args:
        study: the axes.
        texts: field -> value as text (`as_text`), for every varied field.
    """
    found = {}
    for axis, fields in study.axes.items():
        if axis != study.size_axis:
            own = tuple(texts[field] for field in fields)
            # A point of an earlier definition of the study is not in it: its text stands for it.
            point = next((p for p in study.points(axis) if tuple(as_text(value) for value in p) == own), own)
            found[axis] = axis_label(study, axis, dict(zip(fields, point, strict=True)))
    return found


def as_text(value: Any) -> str:
    """Return a field's value as a table shows it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _count(points: list[tuple[Any, ...]], start: tuple[Any, ...]) -> int:
    return sum(point[: len(start)] == start for point in points)


def _value_label(noun: str, value: Any) -> str:
    """Put a value in words. A word stands for itself; "none" and numbers need the name of what they belong to."""
    noun = noun.replace("_", " ")
    if value in ("none", None, False):
        return f"no {noun}"
    if value is True:
        return noun
    return value if isinstance(value, str) else f"{noun} {json.dumps(value)}"
