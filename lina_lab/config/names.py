"""What a cell is called where all of its fields are said, such as `gate=kv dim=16 seed=0`."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lina_lab.config.study import StudyConfig


def short_names(fields: Iterable[str]) -> dict[str, str]:
    """The last part of each field's name; the whole name where two fields share that part."""
    every = set(fields)
    last = Counter(field.rpartition(".")[2] for field in every)
    return {field: short if last[short := field.rpartition(".")[2]] == 1 else field for field in every}


def said(values: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Values with the names of their fields."""
    return " ".join(f"{names[field]}={value}" for field, value in values.items())


def full_name(study: "StudyConfig", axes: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """A cell's values with their fields' names. An axis that has labels is said by its own name and its label.

    Args:
        study: the axes and their labels.
        axes: field -> value, for every field of the axes.
        others: further fields, such as the seed.
    """
    labelled = {field for axis in study.labels for field in study.axes[axis]}
    labels = {axis: study.point_name(axis, axes) for axis in study.axes if axis in study.labels}
    values = {field: value for field, value in {**axes, **others}.items() if field not in labelled}
    return " ".join([*(f"{axis}={label}" for axis, label in labels.items()), said(values, short_names(values))])
