"""A trial that is distilled from its source: its curves, its checkpoints, and how it resumes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lina_lab.config import ResourcesConfig, TrialConfig
from lina_lab.model import LINA
from lina_lab.training.distillation import FLOW, VELOCITY, Z
from lina_lab.training.trial import run_trial
from tests.training.test_resume import KilledError, assert_same_state, final, run
from tests.training.test_trial import validation_loss

Tiny = Callable[..., TrialConfig]
SOFTMAX = {"kind": "softmax", "conv": "none", "gate": "none"}
LONG = {"max_images": 96, "val_every_images": 32}


@pytest.fixture
def source(tiny: Tiny, tmp_path: Path) -> Path:
    """A cell that was trained with softmax attention."""
    folder = tmp_path / "source"
    folder.mkdir()
    run_trial(tiny(model={"attention": SOFTMAX}, sampling={"images_per_class": 0}), folder)
    return folder


def distilled(tiny: Tiny, source: Path, **changes: Any) -> TrialConfig:
    start = {"cell": source.name, "distill_z": 0.5, "distill_velocity": 2.0, **changes.pop("start", {})}
    return tiny(start=start, trainer=LONG, sampling={"images_per_class": 0}, **changes)


def test_the_terms_are_curves_and_the_training_loss_is_their_sum(tiny: Tiny, source: Path, tmp_path: Path) -> None:
    metrics = run(distilled(tiny, source), tmp_path / "own").metrics
    terms = metrics[FLOW] + 0.5 * metrics[Z] + 2 * metrics[VELOCITY]
    assert metrics["train/loss"] == pytest.approx(terms, rel=1e-5)
    assert min(metrics[name] for name in (FLOW, Z, VELOCITY)) > 0


def test_a_term_without_a_weight_has_no_curve(tiny: Tiny, source: Path, tmp_path: Path) -> None:
    metrics = run(distilled(tiny, source, start={"distill_z": 0.0}), tmp_path / "own").metrics
    assert Z not in metrics
    assert VELOCITY in metrics


def test_the_validation_loss_is_the_flow_loss_alone(tiny: Tiny, source: Path, tmp_path: Path) -> None:
    config = distilled(tiny, source)
    result = run(config, tmp_path / "own")
    weights = {name.removeprefix("model."): w for name, w in raw(tmp_path / "own").items()}
    assert result.metrics["val/loss_raw"] == pytest.approx(validation_loss(config, weights), rel=1e-5)


def raw(folder: Path) -> dict[str, torch.Tensor]:
    return final(folder)["current_model_state"]  # type: ignore[return-value]


def test_a_checkpoint_holds_nothing_of_the_teacher(tiny: Tiny, source: Path, tmp_path: Path) -> None:
    """It has the entries of one that starts from the same weights and is not distilled, and of the same sizes."""
    taught, plain = tmp_path / "taught", tmp_path / "plain"
    run(distilled(tiny, source), taught)
    run(distilled(tiny, source, start={"distill_z": 0.0, "distill_velocity": 0.0}), plain)
    own = {f"model.{name}" for name in LINA(tiny().model).state_dict()}
    for name in ("state_dict", "current_model_state"):
        assert set(final(taught)[name]) == own  # type: ignore[call-overload]
    (state,), (plain_state,) = (final(folder)["optimizer_states"] for folder in (taught, plain))  # type: ignore[misc]
    assert state["state"].keys() == plain_state["state"].keys()
    sizes = [sum(path.stat().st_size for path in folder.glob("*.ckpt")) for folder in (taught, plain)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


def test_an_interrupted_one_ends_as_one_that_was_not(tiny: Tiny, source: Path, tmp_path: Path) -> None:
    config = distilled(tiny, source)
    whole = run(config, tmp_path / "whole")
    with pytest.raises(KilledError):
        run(config, tmp_path / "killed", kill_at=3)
    resumed = run(config, tmp_path / "killed")
    assert resumed.resumed_at == 2
    assert resumed.metrics == whole.metrics
    states = [final(tmp_path / name) for name in ("whole", "killed")]
    for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert_same_state(states[0][part], states[1][part], part)


def test_without_its_source_it_cannot_be_resumed(tiny: Tiny, source: Path, tmp_path: Path) -> None:
    config = distilled(tiny, source)
    with pytest.raises(KilledError):
        run(config, tmp_path / "killed", kill_at=3)
    shutil.rmtree(source)
    with pytest.raises(ValueError, match=r"^[^\n]*source[^\n]*$"):
        run(config, tmp_path / "killed")


def test_micro_batches_have_the_terms_of_the_whole_batch(tiny: Tiny, source: Path, tmp_path: Path) -> None:
    config = distilled(tiny, source, model={"attention": {"normalization": "subtraction"}})
    results = []
    for name, accumulate in (("whole", 1), ("parts", 4)):
        (tmp_path / name).mkdir()
        layout = ResourcesConfig(accumulate_grad_batches=accumulate)
        results.append(run_trial(config, tmp_path / name, resources=layout).metrics)
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        assert results[1][name] == pytest.approx(value, abs=1e-4), name


def test_a_teacher_that_sees_something_else_is_refused_before_anything_is_trained(
    tiny: Tiny, source: Path, tmp_path: Path
) -> None:
    config = distilled(tiny, source, model={"latent_size": [16, 16]}, data={"name": "latents", "path": str(tmp_path)})
    with pytest.raises(
        ValueError, match=r"distillation needs a source that sees the same: its latent_size is \[8, 8\]"
    ):
        run(config, tmp_path / "own")
    assert not list((tmp_path / "own").glob("*.ckpt"))
