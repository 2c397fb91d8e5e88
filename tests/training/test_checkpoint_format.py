"""What is in a checkpoint, under which names, and which versions' checkpoints are read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from lina_lab.config import TrialConfig
from lina_lab.evaluation.weights import DATA_STATES, load_trained
from lina_lab.records.result import TrialResult
from lina_lab.training.module import INDEXED_LAYOUT, LAYOUT, LinaModule
from lina_lab.training.optimizer_state import with_names
from lina_lab.training.trial import run_trial
from tests.training.old_checkpoints import as_version_0_1_wrote_it, last, load, write

Tiny = Callable[..., TrialConfig]
SHAPES = {
    "model": {
        "latent_channels": 3,
        "latent_size": [16, 16],
        "patch_size": 4,
        "num_classes": None,
        "text_dim": 8,
        "text_length": 8,
    },
    "data": {"name": "shapes", "encoder": "words", "batch_size": 8, "val_images": 12, "val_batch_size": 6},
    "sampling": {"caption_images": 12, "quality_images": 12},
}


def test_callbacks_keep_the_names_that_their_state_is_stored_under(tiny: Tiny, tmp_path: Path) -> None:
    """As version 0.1 wrote them, and ProgressMeter since then: a name that changes would begin anew without a word."""
    run_trial(tiny(**SHAPES), tmp_path)
    saved = load(last(tmp_path).path)
    assert set(saved["callbacks"]) == {
        "CaptionCheck",
        "Checkpoints",
        "ExponentialAverage",
        "ProgressMeter",
        "Quality",
        "StepEnd",
        "Stopwatch",
    }
    assert {name: set(state) for name, state in saved["callbacks"].items()} == {
        "CaptionCheck": {"seen"},
        "Checkpoints": {"best", "metrics", "random", "waiting"},
        "ExponentialAverage": {"latest_update_step"},
        "ProgressMeter": {"count", "above", "losses"},
        "Quality": {"seen"},
        "StepEnd": {"minimum", "above"},
        "Stopwatch": {"training", "validating"},
    }
    assert saved["layout"] == LAYOUT == 3
    assert set(saved["data"]) == {"encoder_sha256", "damaged", "data_sha256"}
    assert not set(DATA_STATES[1:]) & set(saved)


def test_a_resumed_trial_gets_back_the_state_of_all_callbacks(tiny: Tiny, tmp_path: Path) -> None:
    """Planted values, which the callbacks cannot come to by themselves in what is left to train."""
    config = tiny(**{**SHAPES, "sampling": {"quality_images": 12, "caption_images": 12, "quality_every_images": 1}})
    run_trial(config, tmp_path)
    for path in tmp_path.glob("*00000008.*"):
        path.unlink()
    path = last(tmp_path).path
    assert path.name == "step-00000004.ckpt"
    saved = load(path)
    saved["callbacks"]["StepEnd"] = {"minimum": -100.0, "above": 7}
    saved["callbacks"]["Stopwatch"] = {"training": 1000.0, "validating": 100.0}
    saved["callbacks"]["Checkpoints"]["metrics"]["planted"] = 5.0
    saved["callbacks"]["Quality"]["seen"] = saved["callbacks"]["CaptionCheck"]["seen"] = 10**9
    saved["callbacks"]["ExponentialAverage"]["latest_update_step"] = 3
    write(path, saved)
    result = run_trial(config, tmp_path)
    after = load(last(tmp_path).path)["callbacks"]
    assert after["StepEnd"] == {"minimum": -100.0, "above": 11}
    assert 1000 < after["Stopwatch"]["training"] < 1100
    assert 100 < after["Stopwatch"]["validating"] < 200
    assert result.metrics["planted"] == 5.0
    assert result.images_per_second == pytest.approx(
        64 / (after["Stopwatch"]["training"] - after["Stopwatch"]["validating"])
    )


def test_a_checkpoint_of_version_0_1_is_resumed_exactly(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(trainer={"max_images": 160, "val_every_images": 48}, optimizer={"warmup_images": 100})
    results: dict[str, TrialResult] = {}
    for name in ("whole", "old"):
        folder = tmp_path / name
        folder.mkdir()
        results[name] = run_trial(config, folder)
    for path in (tmp_path / "old").glob("*00000010.*"):
        path.unlink()
    as_version_0_1_wrote_it(tmp_path / "old/step-00000009.ckpt", "DigitsDataModule")
    resumed = run_trial(config, tmp_path / "old")
    assert resumed.resumed_at == 9
    assert resumed.metrics == results["whole"].metrics
    one, other = (load(tmp_path / name / "step-00000010.ckpt") for name in results)
    (states, old_states) = (saved["optimizer_states"][0]["state"] for saved in (one, other))
    assert states.keys() == old_states.keys()
    for name, state in states.items():
        assert all(torch.equal(value, old_states[name][part]) for part, value in state.items())
    assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())


def test_a_model_knows_its_text_encoder_from_checkpoints_of_both_versions(tiny: Tiny, tmp_path: Path) -> None:
    run_trial(tiny(**{**SHAPES, "sampling": {"images_per_class": 0}}), tmp_path)
    path = last(tmp_path).path
    saved = load(path)
    saved["data"]["encoder_sha256"] = "abc"
    write(path, saved)
    assert load_trained(path).encoder_sha256 == "abc"
    as_version_0_1_wrote_it(path, "ShapesDataModule")
    assert load_trained(path).encoder_sha256 == "abc"


def trained_optimizer(module: LinaModule) -> torch.optim.Optimizer:
    """After one step, with a different state for each parameter."""
    built: Any = module.configure_optimizers()
    optimizer: torch.optim.Optimizer = built["optimizer"]
    for number, parameter in enumerate(module.parameters()):
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, 1.0 + number)
    optimizer.step()
    return optimizer


def test_the_optimizer_s_state_is_by_name_and_comes_back_in_any_order(tiny: Tiny) -> None:
    module = LinaModule(tiny())
    optimizer = trained_optimizer(module)
    saved = get_optimizer_state_dict(module, optimizer)
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert saved["state"].keys() == trained.keys()
    assert all(state["exp_avg"].shape == trained[name].shape for name, state in saved["state"].items())
    shuffled = {
        "state": dict(reversed(saved["state"].items())),
        "param_groups": [{**group, "params": group["params"][::-1]} for group in saved["param_groups"]],
    }
    other = LinaModule(tiny())
    weights = {name: parameter.detach().clone() for name, parameter in other.named_parameters()}
    built: Any = other.configure_optimizers()
    set_optimizer_state_dict(other, built["optimizer"], shuffled)
    for name, parameter in other.named_parameters():
        assert torch.equal(parameter, weights[name]), f"loading moved {name}"
        if parameter.requires_grad:
            found = built["optimizer"].state[parameter]
            assert all(torch.equal(found[part], value) for part, value in optimizer.state[trained[name]].items())
    assert [g["weight_decay"] for g in built["optimizer"].param_groups] == [0.02, 0.0]


def test_a_state_that_lacks_a_parameter_is_refused(tiny: Tiny) -> None:
    module = LinaModule(tiny())
    saved = get_optimizer_state_dict(module, trained_optimizer(module))
    del saved["state"][next(iter(saved["state"]))]
    built: Any = module.configure_optimizers()
    module.zero_grad()
    with pytest.raises(RuntimeError, match="Missing optimizer state for parameter"):
        set_optimizer_state_dict(module, built["optimizer"], saved)


def test_indices_in_the_module_become_names(tiny: Tiny) -> None:
    """Version 0.1, and Lightning for sharded weights, number all parameters, those that are not trained too."""
    module = LinaModule(tiny())
    names = [name for name, _ in module.named_parameters()]
    numbered = {"state": {3: {"step": 1}, 0: {"step": 2}}, "param_groups": [{"lr": 0.1, "params": [0, 3]}]}
    assert with_names(numbered, module) == {
        "state": {names[3]: {"step": 1}, names[0]: {"step": 2}},
        "param_groups": [{"lr": 0.1, "params": [names[0], names[3]]}],
    }


@pytest.mark.parametrize("layout", [None, INDEXED_LAYOUT - 1, LAYOUT + 1])
def test_a_checkpoint_of_another_layout_is_refused(tiny: Tiny, layout: int | None) -> None:
    checkpoint: dict[str, Any] = {"optimizer_states": []} | ({} if layout is None else {"layout": layout})
    with pytest.raises(ValueError, match="written by another version of lina_lab"):
        LinaModule(tiny()).on_load_checkpoint(checkpoint)
