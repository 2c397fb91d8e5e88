"""Distillation by several processes: the losses and terms of one, with sharded weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lina_lab.config import TrialConfig
from tests.system.test_groups import alone, assert_same, steady, train, weights

pytestmark = pytest.mark.system
Tiny = Callable[..., TrialConfig]


def test_ranks_learn_from_a_teacher_as_one_process_does(tiny: Tiny, tmp_path: Path) -> None:
    softmax: dict[str, Any] = {"attention": {"kind": "softmax", "conv": "none", "gate": "none"}}
    alone(steady(tiny, model=softmax), tmp_path / "source")
    config = steady(tiny, start={"cell": "source", "distill_z": 0.5, "distill_velocity": 2.0})
    one = alone(config, tmp_path / "one")
    several = train(config, tmp_path / "several", devices=2, strategy="fsdp")
    assert_same(one, several)
    for name in ("train/flow", "train/distill_z", "train/distill_velocity"):
        assert several.metrics[name] == pytest.approx(one.metrics[name], abs=1e-5), name
    assert weights(tmp_path / "several").keys() == weights(tmp_path / "one").keys()
