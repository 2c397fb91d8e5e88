"""Weights to start from are looked at before anything is queued."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from lina_lab.config import CommandConfig, TrialConfig, from_dict
from lina_lab.model import LINA, save_model
from lina_lab.study.grid import Plan, make_plan
from lina_lab.study.preflight import problems
from lina_lab.training.trial import run_trial
from tests.conftest import TINY


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trial of 64 images, with latents of one channel."""
    folder = tmp_path_factory.mktemp("source")
    run_trial(from_dict(TrialConfig, TINY), folder)
    return folder


def planned(tiny_study: Any, *, start: dict[str, Any], **sections: Any) -> Plan:
    config, base = tiny_study(axes={"size": {"model.dim": [8]}, "gate": {"model.attention.gate": ["kv"]}})
    for name, changes in {"start": start, **sections}.items():
        base[name] |= changes
    return make_plan(config, base)


def found(plan: Plan) -> list[str]:
    return list(problems(plan, from_dict(CommandConfig, {})))


@pytest.mark.parametrize("state", ["weights", "optimizer", "training"])
def test_a_source_that_fits_is_no_problem(tiny_study: Any, source: Path, state: str) -> None:
    start = {"source": str(source), "state": state}
    assert found(planned(tiny_study, start=start, trainer={"max_images": 128})) == []


CASES: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]], str]] = {
    "channels": (
        {},
        {"model": {"latent_channels": 2, "num_classes": None}, "data": {"name": "latents", "path": "."}},
        "(the source has latent_channels=1, num_classes=10, and the model latent_channels=2, num_classes=None)",
    ),
    "budget": ({"state": "training"}, {}, "it has trained 64 images, and trainer.max_images=64 asks for no more"),
    "another trial": (
        {"state": "training"},
        {"trainer": {"max_images": 128}, "optimizer": {"lr": 1e-4}},
        "goes on with the same trial, and this one differs (optimizer.lr was 0.001 and is 0.0001)",
    ),
    "pattern": ({"take": "named", "named": ["x.*"]}, {}, "no parameter of the source matches x.*"),
    "gates": ({"gates": "drop"}, {}, "start.gates=drop is for a model without gates by position"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_source_that_does_not_fit_is_one_sentence(tiny_study: Any, source: Path, case: str) -> None:
    start, sections, sentence = CASES[case]
    problem = found(planned(tiny_study, start={"source": str(source), **start}, **sections))[-1]
    assert problem.startswith(f"start.source={source}: ")
    assert sentence in problem
    assert "\n" not in problem


def test_weights_that_changed_since_the_plan_are_a_problem(tiny_study: Any, source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "given")
    plan = planned(tiny_study, start={"source": str(tmp_path / "given")})
    assert found(plan) == []
    save_model(LINA(plan.cells[0].config.model), tmp_path / "given")
    assert found(plan) == [
        f"start.source: the weights in {tmp_path / 'given'} changed since the plan: put them back, or plan a new study"
    ]
    shutil.rmtree(tmp_path / "given")
    assert found(plan) == [f"start.source: {tmp_path / 'given'} is not there: no file and no folder has this name"]
