"""A trial that starts from a source: its weights, or its optimizer as well."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lina_lab.config import TrialConfig
from lina_lab.model import LINA, initialize, save_model
from lina_lab.model.inherit import inherit
from lina_lab.training.start import initial, teacher
from tests.training.starts import STATES, path_of, run, weights_of
from tests.training.test_resume import KilledError, assert_same_state, final

Tiny = Callable[..., TrialConfig]


def expected_model(config: TrialConfig, weights: dict[str, torch.Tensor], source: TrialConfig) -> LINA:
    model = LINA(config.model)
    initialize(model, config.seed)
    inherit(model, weights, source.model, config.start)
    return model


def test_a_trial_starts_from_the_averaged_or_the_raw_weights(tiny: Tiny, source: Path, tmp_path: Path) -> None:
    """A rate that moves nothing shows the weights that it began with, in the raw and in the averaged model."""
    still = {"optimizer": {"lr": 1e-30, "weight_decay": 0.0}, "trainer": {"max_images": 16}}
    for weights, state in (("ema", "state_dict"), ("raw", "current_model_state")):
        config = tiny(**still, start=path_of(source, weights=weights))
        result, _ = run(config, tmp_path / weights)
        for found in ("state_dict", "current_model_state"):
            assert_same_state(weights_of(tmp_path / weights, found), weights_of(source, state))
        assert result.origin is not None
        assert result.origin.startswith(f"started from {source}: ")
    assert not torch.equal(*(next(iter(weights_of(tmp_path / name).values())) for name in ("ema", "raw")))


def test_the_average_counts_the_weights_that_training_starts_from(tiny: Tiny, source: Path, tmp_path: Path) -> None:
    config = tiny(trainer={"max_images": 16}, ema={"decay": 0.9, "every_n_steps": 1}, start=path_of(source))
    run(config, tmp_path / "cell")
    before, raw, ema = (
        weights_of(source),
        weights_of(tmp_path / "cell", "current_model_state"),
        weights_of(tmp_path / "cell"),
    )
    for name in ema:
        torch.testing.assert_close(ema[name], 0.9 * before[name] + 0.1 * raw[name])


def test_a_larger_image_starts_from_the_weights_of_a_smaller_one(tiny: Tiny, source: Path, tmp_path: Path) -> None:
    """The first loss is that of the model that inherits by itself; the data are as for drawn weights."""
    arrays = {"data": {"name": "shapes", "batch_size": 16, "val_images": 40, "val_batch_size": 20}}
    shapes = {"latent_channels": 3, "num_classes": None}
    small = tiny(**arrays, model=shapes)
    run(small, tmp_path / "small")
    large = tiny(
        **arrays, model={**shapes, "latent_size": [16, 16]}, start=path_of(tmp_path / "small", gates="restart")
    )
    result, losses = run(large, tmp_path / "large")
    drawn, drawn_losses = run(replace(large, start=tiny().start), tmp_path / "drawn")
    assert result.metrics["val/loss_ema"] != drawn.metrics["val/loss_ema"]
    assert losses[16] != drawn_losses[16]
    assert result.origin is not None
    assert "2 drawn (backbone.decoder.0.attn.gate.key_scale, backbone.decoder.0.attn.gate.value_scale)" in result.origin
    found = initial(large, tmp_path / "study/cell")
    assert found is not None
    model = expected_model(large, weights_of(tmp_path / "small"), small)
    own = LINA(large.model)
    initialize(own, large.seed)
    found.give(own, large)
    assert_same_state(own.state_dict(), model.state_dict())


@pytest.mark.parametrize("state", ["weights", "optimizer"])
def test_interrupted_and_resumed_equals_uninterrupted(tiny: Tiny, source: Path, tmp_path: Path, state: str) -> None:
    """Also without the source, which only the first attempt needs until there is a checkpoint."""
    shutil.copytree(source, tmp_path / "given")
    config = tiny(trainer={"max_images": 128, "val_every_images": 48}, start=path_of(tmp_path / "given", state=state))
    whole, losses = run(config, tmp_path / "study/whole")
    with pytest.raises(KilledError):
        run(config, tmp_path / "study/broken", kill_at=32)
    with pytest.raises(KilledError):
        run(config, tmp_path / "study/broken", kill_at=64)
    shutil.rmtree(tmp_path / "given")
    broken, later = run(config, tmp_path / "study/broken")
    assert (broken.resumed_at, broken.metrics, broken.origin) == (3, whole.metrics, whole.origin)
    assert later == {images: loss for images, loss in losses.items() if images > 48}
    states = [final(tmp_path / "study" / name) for name in ("whole", "broken")]
    for part in STATES:
        assert_same_state(states[0][part], states[1][part], part)


def test_the_optimizer_s_moments_are_taken_with_the_parameters(tiny: Tiny, source: Path, tmp_path: Path) -> None:
    """After a step with no gradient to speak of, the moments are the source's, decayed once; others are new."""
    betas = [0.9, 0.95]
    config = tiny(
        model={"attention": {"gate": "none", "conv": "none"}},
        trainer={"max_images": 16},
        start=path_of(source, state="optimizer", take="named", named=["*.mlp.*"], gates="interpolate"),
    )
    run(config, tmp_path / "cell")
    before = final(source)["optimizer_states"][0]["state"]  # type: ignore[index]
    after = final(tmp_path / "cell")["optimizer_states"][0]["state"]  # type: ignore[index]
    taken = [name for name in after if ".mlp." in name]
    others = [name for name in after if ".mlp." not in name]
    assert taken
    assert others
    assert {float(after[name]["step"]) for name in taken} == {5.0}
    assert {float(after[name]["step"]) for name in others} == {1.0}
    for name in taken:
        gradient = (after[name]["exp_avg"] - betas[0] * before[name]["exp_avg"]) / (1 - betas[0])
        expected = betas[1] * before[name]["exp_avg_sq"] + (1 - betas[1]) * gradient.square()
        torch.testing.assert_close(after[name]["exp_avg_sq"], expected, rtol=1e-3, atol=1e-9)


def test_a_source_that_is_not_there_or_has_changed_starts_nothing(tiny: Tiny, source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "given")
    config = tiny(start=path_of(tmp_path / "given"))
    save_model(LINA(config.model), tmp_path / "given")
    with pytest.raises(ValueError, match=r"the weights in .*given changed since the plan: put them back"):
        run(config, tmp_path / "cell")
    shutil.rmtree(tmp_path / "given")
    with pytest.raises(ValueError, match=r"given is not there: no file and no folder has this name"):
        run(config, tmp_path / "cell")
    other = tiny(start=path_of(source), model={"latent_channels": 3, "num_classes": None}, data={"name": "shapes"})
    with pytest.raises(ValueError, match=r"source: weights of the source do not fit the model .*latent_channels=1"):
        run(other, tmp_path / "cell")
    assert list((tmp_path / "cell").iterdir()) == []


@pytest.mark.parametrize("damage", ["torn", "flipped"])
def test_half_a_checkpoint_is_refused(tiny: Tiny, source: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(source, tmp_path / "given")
    config = tiny(start=path_of(tmp_path / "given"))
    for path in (tmp_path / "given").glob("*.ckpt"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "flipped" else content[:-100])
    with pytest.raises(ValueError, match=r"step-00000004\.ckpt is not a whole checkpoint of a trial"):
        run(config, tmp_path / "cell")


def test_a_cell_of_the_study_must_be_there_and_have_ended(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(start={"cell": "0123456789ab"})
    with pytest.raises(ValueError, match=r"the cell 0123456789ab has no whole checkpoint beside this cell's folder"):
        run(config, tmp_path / "study/cell")
    with pytest.raises(KilledError):
        run(tiny(), tmp_path / "study/0123456789ab", kill_at=48)
    with pytest.raises(ValueError, match=r"the cell 0123456789ab has trained 32 of 64 images: it must end first"):
        run(config, tmp_path / "study/cell")


def test_what_holds_weights_alone_has_no_optimizer_to_go_on_with(tiny: Tiny, source: Path, tmp_path: Path) -> None:
    save_model(LINA(tiny().model), tmp_path / "model")
    for state in ("optimizer", "training"):
        with pytest.raises(ValueError, match=rf"start\.state={state} needs a checkpoint: .*model holds weights alone"):
            run(tiny(start=path_of(tmp_path / "model", state=state)), tmp_path / "cell")


def test_the_teacher_is_the_source_frozen(tiny: Tiny, source: Path, tmp_path: Path) -> None:
    model = teacher(tiny(start=path_of(source)), tmp_path / "study/cell")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert_same_state(model.state_dict(), weights_of(source))
