"""Variants have names that say what they are, whatever the study's axes."""

from typing import Any

import pytest
from lina_lab.analysis.load.labels import labels_by_axis, variant_label

from lina_lab.config import StudyConfig, from_dict

AXES: dict[str, Any] = {
    "normalization": {"model.attention.normalization": ["division", "subtraction"]},
    "convolution": {
        "model.attention.conv": ["none", "depthwise", "depthwise", "dynamic"],
        "model.attention.conv_kernel": [5, 3, 5, 5],
    },
    "learning_rate": {"optimizer.lr": [0.001, 0.002]},
    "placement": {"model.attention.kind": ["linear", "softmax"]},
    "size": {"model.dim": [8, 16]},
}


def study(axes: dict[str, Any], **fields: Any) -> StudyConfig:
    base = {"name": "named", "question": "?", "axes": axes, "size_axis": "size", "seeds": [0]}
    return from_dict(StudyConfig, base | fields)


@pytest.mark.parametrize(
    ("conv", "kernel", "label"),
    [
        ("none", 5, "no convolution"),
        ("depthwise", 3, "depthwise, conv kernel 3"),
        ("depthwise", 5, "depthwise, conv kernel 5"),
        ("dynamic", 5, "dynamic"),
        # Not a point of the axis.
        ("dynamic", 7, "dynamic, conv kernel 7"),
    ],
)
def test_as_many_fields_are_named_as_tell_a_value_from_the_others(conv: str, kernel: int, label: str) -> None:
    values = {
        "model.attention.normalization": "division",
        "model.attention.conv": conv,
        "model.attention.conv_kernel": kernel,
        "optimizer.lr": 0.002,
        "model.attention.kind": "linear",
        "model.dim": 8,
    }
    assert variant_label(study(AXES), values) == f"division, {label}, learning rate 0.002, linear"
    texts = {name: value if isinstance(value, str) else str(value) for name, value in values.items()}
    if kernel != 7:
        assert labels_by_axis(study(AXES), texts)["convolution"] == label


def test_the_labels_of_a_study_are_kept_and_a_study_of_sizes_has_one_variant() -> None:
    size = {"size": AXES["size"]}
    placement = {"placement": AXES["placement"], **size}
    named = study(placement, labels={"placement": ["none of it", "all softmax"]})
    assert variant_label(named, {"model.attention.kind": "softmax", "model.dim": 8}) == "all softmax"
    assert variant_label(study(size), {"model.dim": 8}) == "all"


@pytest.mark.parametrize(("value", "label"), [(None, "no gate"), (False, "no gate"), (True, "gate"), (3, "gate 3")])
def test_numbers_and_switches_are_called_after_their_axis(value: Any, label: str) -> None:
    made = study({"gate": {"model.attention.gate": [value, "kv"]}, "size": AXES["size"]})
    assert variant_label(made, {"model.attention.gate": value, "model.dim": 8}) == label
