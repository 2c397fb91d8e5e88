"""One trial: budgets, determinism, the average, the frozen validation loss, and its ends."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from torch.optim.swa_utils import get_ema_avg_fn

from lina_lab.config import ResourcesConfig, TrialConfig, to_dict
from lina_lab.data import make_data
from lina_lab.model import LINA
from lina_lab.model.masking import stratified_mask_ratios
from lina_lab.model.schedule import num_masked
from lina_lab.records.result import Progress
from lina_lab.training.callbacks.ema import ExponentialAverage
from lina_lab.training.checkpoints import newest
from lina_lab.training.module import LinaModule
from lina_lab.training.optimizers import grouped_parameters
from lina_lab.training.trial import run_trial
from lina_lab.training.validation import frozen_loss_inputs

Tiny = Callable[..., TrialConfig]


def losses_of(config: TrialConfig, folder: Path) -> list[tuple[int, float]]:
    """Images seen and loss after each step."""
    # A validation is reported too, with the images and the loss of the step before it.
    seen: dict[int, float] = {}
    folder.mkdir(exist_ok=True)
    run_trial(config, folder, report=lambda progress: seen.setdefault(progress.images, progress.loss) and None)
    return list(seen.items())


def last_checkpoint(folder: Path) -> dict[str, Any]:
    found, _ = newest(folder)
    assert found is not None
    return torch.load(found.path, weights_only=True)  # type: ignore[no-any-return]


def test_a_trial_comes_to_a_result(tiny: Tiny, tmp_path: Path) -> None:
    result = run_trial(tiny(), tmp_path)
    assert (result.status, result.error) == ("done", None)
    assert (result.images_seen, result.steps) == (64, 4)
    assert result.metrics.keys() == {"train/loss", "val/loss_raw", "val/loss_ema"}
    model = LINA(tiny().model)
    assert result.parameters == sum(p.numel() for p in model.parameters())
    assert result.trainable_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert result.images_per_second > 0
    checkpoints = {"step-00000002.ckpt", "step-00000004.ckpt"}
    expected_names = checkpoints | {f"{name}.sha256" for name in checkpoints} | {"samples.png", "samples.npz"}
    assert {path.name for path in tmp_path.iterdir()} == expected_names


def test_a_gpu_that_is_left_alone_is_no_warning(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning.pytorch.accelerators.CUDAAccelerator.is_available", lambda: True)
    assert run_trial(tiny(), tmp_path, resources=ResourcesConfig(accelerator="cpu")).status == "done"


@pytest.mark.parametrize(("budget", "every"), [(64, 32), (80, 48), (10, 100), (65, 16)])
def test_the_budget_is_met_and_the_last_validation_is_at_its_end(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int, every: int
) -> None:
    config = tiny(trainer={"max_images": budget, "val_every_images": every})
    validated = []
    original = LinaModule.on_validation_epoch_end

    def spy(self: LinaModule) -> None:
        validated.append(self.images_seen)
        original(self)

    monkeypatch.setattr(LinaModule, "on_validation_epoch_end", spy)
    seen = losses_of(config, tmp_path)
    steps = -(-budget // 16)
    stretch = -(-every // 16)
    assert [images for images, _ in seen] == [16 * step for step in range(1, steps + 1)]
    assert validated == [16 * s for s in range(stretch, steps, stretch)] + [16 * steps]


def test_same_seed_same_losses_bit_for_bit(tiny: Tiny, tmp_path: Path) -> None:
    one, two = (losses_of(tiny(), tmp_path / name) for name in ("one", "two"))
    assert one == two
    assert losses_of(tiny(seed=1), tmp_path / "other") != one


def test_the_global_random_state_does_not_matter(tiny: Tiny, tmp_path: Path) -> None:
    one = losses_of(tiny(), tmp_path / "one")
    torch.manual_seed(123)
    torch.rand(7)
    assert losses_of(tiny(), tmp_path / "two") == one


def test_a_loss_that_is_not_finite_ends_the_trial_as_diverged(tiny: Tiny, tmp_path: Path) -> None:
    result = run_trial(tiny(optimizer={"lr": 1e30}), tmp_path)
    assert result.status == "diverged"
    assert result.error is not None
    assert "the training loss is" in result.error
    assert result.steps < 4


@pytest.mark.parametrize(("factor", "at"), [(1.5, 7), (100.0, None)])
def test_a_loss_that_stays_high_has_diverged_though_it_is_finite(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, at: int | None
) -> None:
    """Losses 1, 2, 1, 4, 4, 4, 4, ...: four in a row above 1.5 from step 4 to step 7; one at step 2 is not enough."""
    planted = iter([1.0, 2.0, 1.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0])
    step = LinaModule.training_step

    def training_step(self: LinaModule, *arguments: Any) -> torch.Tensor:
        loss = step(self, *arguments)
        return loss * (next(planted) / loss.detach())

    monkeypatch.setattr(LinaModule, "training_step", training_step)
    trainer = {"max_images": 160, "val_every_images": 80, "divergence_factor": factor, "divergence_steps": 4}
    result = run_trial(tiny(trainer=trainer), tmp_path)
    if at is None:
        assert (result.status, result.steps) == ("done", 10)
    else:
        assert (result.status, result.steps) == ("diverged", at)
        assert result.error == "the training loss was above 1.5 times its minimum of 1 for 4 steps at step 7"
        assert "val/loss_ema" in result.metrics


def test_a_grid_that_cannot_be_generated_ends_nothing(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_trial(tiny(), tmp_path)
    (tmp_path / "two").mkdir()
    monkeypatch.setattr(LINA, "generate", lambda *_, **__: 1 / 0)
    result = run_trial(tiny(), tmp_path / "two")
    assert (result.status, result.metrics) == ("done", whole.metrics)
    assert result.problems == ("no picture of samples: ZeroDivisionError: division by zero",)


def test_a_trial_can_be_cancelled_from_outside(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "cancel").touch()
    result = run_trial(tiny(), tmp_path)
    assert (result.status, result.error, result.steps) == ("cancelled", "cancelled", 1)


def test_ctrl_c_comes_through_and_can_come_again(tiny: Tiny, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(tiny(), tmp_path, report=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_error_of_the_trial_comes_through(tiny: Tiny, tmp_path: Path) -> None:
    def fail(progress: Progress) -> None:
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        run_trial(tiny(), tmp_path, report=fail)


def test_a_trial_may_run_outside_the_main_thread(tiny: Tiny, tmp_path: Path) -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(run_trial(tiny(), tmp_path)))
    thread.start()
    thread.join()
    assert results[0].status == "done"


def test_the_average_is_the_one_of_the_formula_and_both_weights_are_validated(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The average over steps by hand: the first update takes the weights, each other one is an EMA step."""
    weights: list[dict[str, torch.Tensor]] = []
    step = LinaModule.optimizer_step

    def spy(self: LinaModule, *args: Any, **kwargs: Any) -> None:
        step(self, *args, **kwargs)
        weights.append({name: value.detach().clone() for name, value in self.model.named_parameters()})

    monkeypatch.setattr(LinaModule, "optimizer_step", spy)
    config = tiny(ema={"decay": 0.5, "every_n_steps": 2}, trainer={"max_images": 96, "val_every_images": 96})
    result = run_trial(config, tmp_path)
    assert len(weights) == 6
    average, mix = weights[0], get_ema_avg_fn(0.5)
    for update in (weights[2], weights[4]):
        average = {name: mix(average[name], value, torch.tensor(1)) for name, value in update.items()}
    checkpoint = last_checkpoint(tmp_path)
    for name, value in average.items():
        assert torch.allclose(checkpoint["state_dict"][f"model.{name}"], value)
        assert torch.equal(checkpoint["current_model_state"][f"model.{name}"], weights[-1][name])
    for expected, metric in ((average, "val/loss_ema"), (weights[-1], "val/loss_raw")):
        assert validation_loss(config, expected) == pytest.approx(result.metrics[metric], rel=1e-5)
    assert result.metrics["val/loss_raw"] != result.metrics["val/loss_ema"]


def validation_loss(config: TrialConfig, weights: dict[str, torch.Tensor]) -> float:
    """The frozen loss of some weights, by hand."""
    from lina_lab.data.modules.digits import DigitsDataModule

    model = LINA(config.model)
    model.load_state_dict(weights, strict=False)
    held_out = DigitsDataModule(config).val_set
    images, condition = held_out[torch.arange(len(held_out))]
    labels = condition["label"]
    total = 0.0
    for i, inputs in enumerate(frozen_loss_inputs(config)):
        part = slice(20 * i, 20 * i + 20)
        total += model.loss_from_inputs(images[part], inputs, label=labels[part]).item() * 20
    return total / len(images)


class Spy:
    """Keeps the arguments of the loss of each training step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[torch.Tensor, Any, torch.Tensor | None]] = []
        original = LINA.loss_from_inputs

        def spy(model: LINA, latents: torch.Tensor, inputs: Any, **condition: Any) -> torch.Tensor:
            if torch.is_grad_enabled():
                self.steps.append((latents, inputs, condition.get("label")))
            return original(model, latents, inputs, **condition)

        monkeypatch.setattr(LINA, "loss_from_inputs", spy)

    def taken(self) -> list[tuple[torch.Tensor, Any, torch.Tensor | None]]:
        steps, self.steps = self.steps, []
        return steps


def test_variants_and_sizes_of_one_seed_see_the_same_step_by_step(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images, classes, masks, levels and noise are common; steps and seeds differ in all of them."""
    spy = Spy(monkeypatch)
    for name in ("first", "second", "other"):
        (tmp_path / name).mkdir()
    run_trial(tiny(), tmp_path / "first")
    first = spy.taken()
    plain = {"normalization": "subtraction", "conv": "none", "gate": "none"}
    run_trial(tiny(model={"dim": 16, "attention": plain}, optimizer={"lr": 3e-3}), tmp_path / "second")
    second = spy.taken()
    run_trial(tiny(seed=1), tmp_path / "other")
    other = spy.taken()
    assert len(first) == len(second) == len(other) == 4
    for (latents, inputs, label), (latents2, inputs2, label2) in zip(first, second, strict=True):
        assert torch.equal(latents, latents2)
        assert label is not None
        assert label2 is not None
        assert torch.equal(label, label2)
        assert all(torch.equal(getattr(inputs, name), getattr(inputs2, name)) for name in vars(inputs))
    noises = [inputs.noise.flatten()[:8] for _, inputs, _ in first + other]
    assert len({tuple(noise.tolist()) for noise in noises}) == 8


def test_first_weights_follow_the_seed(tiny: Tiny) -> None:
    one, same, other = (LinaModule(tiny(seed=seed)).model.backbone.embed.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_optimizer_is_as_configured(tiny: Tiny) -> None:
    module = LinaModule(tiny(optimizer={"lr": 0.1, "betas": [0.8, 0.9], "weight_decay": 0.3}))
    built: Any = module.configure_optimizers()
    assert built["lr_scheduler"]["interval"] == "step"
    assert [group["betas"] for group in built["optimizer"].param_groups] == [(0.8, 0.9)] * 2
    assert [group["weight_decay"] for group in built["optimizer"].param_groups] == [0.3, 0.0]


def test_validation_masks_are_stratified(tiny: Tiny) -> None:
    config = tiny(data={"val_images": 100, "val_batch_size": 20})
    masked = [inputs.masked_ids.shape[1] for inputs in frozen_loss_inputs(config)]
    assert masked == [num_masked(ratio, 64) for ratio in stratified_mask_ratios(5)]


def test_the_grid_is_of_the_averaged_weights(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, torch.Tensor] = {}
    original = LINA.generate

    def spy(model: LINA, **arguments: Any) -> torch.Tensor:
        seen.update({name: value.clone() for name, value in model.named_parameters()})
        assert arguments["guidance"] == 2.0
        return original(model, **arguments)

    monkeypatch.setattr(LINA, "generate", spy)
    run_trial(tiny(), tmp_path)
    averaged = last_checkpoint(tmp_path)["state_dict"]
    assert all(torch.equal(value, averaged[f"model.{name}"]) for name, value in seen.items())


def test_validation_loss_inputs_are_frozen(tiny: Tiny) -> None:
    one = frozen_loss_inputs(tiny())
    two = frozen_loss_inputs(tiny(seed=5, model={"dim": 16, "attention": {"normalization": "subtraction"}}))
    for a, b in zip(one, two, strict=True):
        assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in vars(a))
    assert not any(inputs.drop.any() for inputs in one)


def test_validation_noise_levels_are_stratified(tiny: Tiny) -> None:
    """The levels of one image spread evenly over the distribution: one in each of its equal parts."""
    inputs = frozen_loss_inputs(tiny(model={"noise_samples_per_token": 4}))[0]
    levels = inputs.timestep.transpose(0, 1).reshape(20, -1).double()
    share = torch.special.ndtr(torch.logit(levels / 1000 - 0.0005))
    strata = (share.sort(dim=1).values * levels.shape[1]).floor()
    assert (strata - torch.arange(levels.shape[1])).abs().max() <= 1


def test_rate_warms_up_then_stays(tiny: Tiny) -> None:
    module = LinaModule(tiny(optimizer={"lr": 0.1, "warmup_images": 64}))
    built: Any = module.configure_optimizers()
    rates = []
    for _ in range(6):
        rates.append(built["lr_scheduler"]["scheduler"].get_last_lr()[0])
        built["optimizer"].step()
        built["lr_scheduler"]["scheduler"].step()
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_norms_have_no_weight_decay_and_frozen_are_left_out(tiny: Tiny) -> None:
    model = LINA(tiny().model)
    (decays, decayed), (other, plain) = ((key[0], parameters) for key, parameters in grouped_parameters(model).items())
    assert decays
    assert not other
    names = {id(p): name for name, p in model.named_parameters()}
    assert all("norm" in names[id(p)] for p in plain)
    assert not any("norm" in names[id(p)] for p in decayed)
    assert len(decayed) + len(plain) == sum(p.requires_grad for p in model.parameters())


def test_the_checkpoint_says_what_it_is_of(tiny: Tiny, tmp_path: Path) -> None:
    run_trial(tiny(), tmp_path)
    checkpoint = last_checkpoint(tmp_path)
    assert checkpoint["hyper_parameters"] == to_dict(tiny())


@pytest.mark.parametrize("accelerator", ["auto", "cpu", "gpu"])
def test_the_accelerator_is_the_one_that_is_asked_for(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accelerator: Any
) -> None:
    arguments_of: dict[str, Any] = {}

    def spy(**arguments: Any) -> None:
        arguments_of.update(arguments)
        raise InterruptedError

    monkeypatch.setattr("lina_lab.training.trial.L.Trainer", spy)
    with pytest.raises(InterruptedError):
        run_trial(tiny(), tmp_path, resources=ResourcesConfig(accelerator=accelerator))
    assert arguments_of["accelerator"] == accelerator


def plain_trainer(folder: Path, *callbacks: Callback) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        num_sanity_val_steps=0,
        logger=False,
        callbacks=[*callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
    )


@pytest.mark.filterwarnings("ignore")  # what Lightning advises in a plain trainer
def test_without_an_average_there_is_no_loss_of_averaged_weights(tiny: Tiny, tmp_path: Path) -> None:
    """In a plain trainer the raw loss was logged under both names."""
    config = tiny(trainer={"val_every_images": 64})
    trainer = plain_trainer(tmp_path)
    with pytest.warns(UserWarning, match="no ExponentialAverage among the callbacks, and so no val/loss_ema"):
        trainer.fit(LinaModule(config), datamodule=make_data(config))
    assert "val/loss_raw" in trainer.logged_metrics
    assert "val/loss_ema" not in trainer.logged_metrics
    trainer = plain_trainer(tmp_path, ExponentialAverage(config.ema))
    trainer.fit(LinaModule(config), datamodule=make_data(config))
    assert {"val/loss_raw", "val/loss_ema"} <= trainer.logged_metrics.keys()
    fresh = plain_trainer(tmp_path, ExponentialAverage(config.ema))
    fresh.validate(LinaModule(config), datamodule=make_data(config), verbose=False)
    assert "val/loss_ema" not in fresh.logged_metrics


@pytest.mark.filterwarnings("ignore")  # what Lightning advises in a plain trainer
def test_an_average_that_is_validated_under_both_names_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny()
    with pytest.raises(ValueError, match="EMAWeightAveraging averages the weights for both validation losses"):
        plain_trainer(tmp_path, EMAWeightAveraging()).fit(LinaModule(config), datamodule=make_data(config))


@pytest.mark.parametrize(
    "change", [{"trainer": {"max_images": 128}}, {"optimizer": {"lr": 0.1}}], ids=["budget", "rate"]
)
def test_a_folder_with_another_trial_s_checkpoints_is_refused(tiny: Tiny, tmp_path: Path, change: Any) -> None:
    """A larger budget went on from them and ended, done, at 7 of 10 steps; another rate went on as well."""
    run_trial(tiny(), tmp_path)
    section, fields = next(iter(change.items()))
    field, value = next(iter(fields.items()))
    before = {path: path.read_bytes() for path in tmp_path.glob("*.ckpt")}
    with pytest.raises(ValueError, match=rf"of another trial \({section}\.{field} was .* and is {value}\)"):
        run_trial(tiny(**change), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.ckpt")} == before


def test_an_average_that_is_slower_than_the_trial_is_a_problem_of_its_result(tiny: Tiny, tmp_path: Path) -> None:
    result = run_trial(tiny(ema={"decay": 0.99, "every_n_steps": 100}), tmp_path)
    (problem,) = result.problems
    assert "all of which are those after the first step" in problem


def test_a_trial_that_would_guide_by_what_it_never_trains_draws_its_grid_without(tiny: Tiny, tmp_path: Path) -> None:
    changes = {"model": {"condition_dropout": 0.0}}
    pictures = []
    for name, scale in (("guided", 2.0), ("plain", 1.0)):
        (tmp_path / name).mkdir()
        result = run_trial(tiny(**changes, sampling={"guidance_scale": scale}), tmp_path / name)
        assert len(result.problems) == (name == "guided")
        pictures.append((tmp_path / name / "samples.png").read_bytes())
    assert pictures[0] == pictures[1]


def test_a_trial_can_seed_with_all_bits(tiny: Tiny, tmp_path: Path) -> None:
    """Other weights, order, masks and noise; the same each time; and another config hash."""
    versions = [tiny(trainer={"rng_version": version}) for version in (1, 2, 2)]
    one, two, again = (losses_of(config, tmp_path / str(number)) for number, config in enumerate(versions))
    assert two == again
    assert one != two
    assert losses_of(tiny(), tmp_path / "default") == one
    assert versions[0].config_hash() == tiny().config_hash() != versions[1].config_hash()
