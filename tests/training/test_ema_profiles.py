"""Averages by power functions in a trial: what is kept, written, resumed and measured."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lina_lab import load
from lina_lab.commands.sample import COMMAND
from lina_lab.config import EmaConfig, ResourcesConfig, TrialConfig, from_dict
from lina_lab.evaluation.posthoc import AVERAGES, Snapshot
from lina_lab.model import save_model
from lina_lab.records.result import Progress, TrialResult
from lina_lab.training.callbacks import ema_profiles
from lina_lab.training.callbacks.ema_profiles import PowerAverages
from lina_lab.training.checkpoints import newest
from lina_lab.training.trial import run_trial
from lina_lab.util.power_ema import decay_of
from tests.conftest import TINY

Tiny = Callable[..., TrialConfig]
EMA = {"decay": 0.5, "every_n_steps": 1, "profiles": [0.05, 0.1]}
LONG = {"max_images": 320, "val_every_images": 96}
"""Twenty steps: validations after each sixth one and the last, snapshots after each second one."""


class KilledError(RuntimeError):
    """Ends a trial as nothing in it expects."""


def run(config: TrialConfig, folder: Path, kill_at: int | None = None) -> TrialResult:
    folder.mkdir(exist_ok=True)

    def report(progress: Progress) -> None:
        if progress.step == kill_at:
            raise KilledError

    return run_trial(config, folder, report=report)


def saved(folder: Path) -> dict[str, Any]:
    found, _ = newest(folder)
    assert found is not None
    return torch.load(found.path, weights_only=True)  # type: ignore[no-any-return]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "ema").iterdir()}


@pytest.fixture
def weights_of_steps(monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[str, torch.Tensor]]:
    """Is filled with the weights after each step of a trial."""
    seen: dict[int, dict[str, torch.Tensor]] = {}
    update = PowerAverages.on_train_batch_end

    def watched(self: PowerAverages, trainer: Any, pl_module: Any, *others: Any) -> None:
        seen[trainer.global_step] = {n: p.detach().double().clone() for n, p in pl_module.model.named_parameters()}
        update(self, trainer, pl_module, *others)

    monkeypatch.setattr(PowerAverages, "on_train_batch_end", watched)
    return seen


def tracked(seen: dict[int, dict[str, torch.Tensor]], width: float, name: str) -> torch.Tensor:
    average = torch.zeros_like(seen[1][name])
    for step in sorted(seen.keys() - {0}):  # With accumulation there are batches before the first step.
        average += (1 - decay_of(width, step)) * (seen[step][name] - average)
    return average


def test_any_length_is_the_average_of_the_weights_after_each_step(
    tiny: Tiny, tmp_path: Path, weights_of_steps: dict[int, dict[str, torch.Tensor]]
) -> None:
    """The profiles as they were kept, others within a thousandth, at the end and at a checkpoint between snapshots."""
    run(tiny(ema=EMA, trainer={**LONG, "val_every_images": 80}), tmp_path / "trial")
    assert sorted(weights_of_steps) == list(range(1, 21))
    for path, steps in ((tmp_path / "trial", 20), (tmp_path / "trial/step-00000015.ckpt", 15)):
        seen = {step: weights for step, weights in weights_of_steps.items() if step <= steps}
        for length, bound in ((0.05, 1e-6), (0.1, 1e-6), (0.07, 1e-3)):
            for name, value in load(path, ema=length).named_parameters():
                assert (value - tracked(seen, length, name)).norm() <= bound * (1e-3 + value.norm()), (steps, name)


def test_training_is_the_same_with_profiles(tiny: Tiny, tmp_path: Path) -> None:
    """Losses and weights bit for bit, also with lengths: the average that lends its module gets its weights back."""
    plain = run(tiny(ema={"profiles": []}, trainer=LONG), tmp_path / "plain")
    more = run(tiny(ema={**EMA, "lengths": [0.05, 0.07]}, trainer=LONG), tmp_path / "more")
    assert plain.metrics.items() <= more.metrics.items()
    assert more.metrics.keys() - plain.metrics.keys() == {"val/loss_ema_0.050", "val/loss_ema_0.070"}
    assert not (tmp_path / "plain/ema").exists()
    one, other = saved(tmp_path / "plain"), saved(tmp_path / "more")
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, other[part][name]) for name, value in one[part].items())
    assert AVERAGES not in one["callbacks"]
    assert (tmp_path / "plain/samples.png").read_bytes() == (tmp_path / "more/samples.png").read_bytes()


@pytest.mark.parametrize("kills", [[1], [7], [9, 14], [20]], ids=str)
def test_interrupted_equals_uninterrupted(tiny: Tiny, tmp_path: Path, kills: list[int]) -> None:
    """Averages, list and contents of the snapshots, and what is measured at the end, bit for bit."""
    config = tiny(ema={**EMA, "lengths": [0.06]}, trainer=LONG)
    whole = run(config, tmp_path / "whole")
    for step in kills:
        with pytest.raises(KilledError):
            run(config, tmp_path / "broken", kill_at=step)
    broken = run(config, tmp_path / "broken")
    assert broken.metrics == whole.metrics
    assert files(tmp_path / "broken") == files(tmp_path / "whole")
    one, other = (saved(tmp_path / name)["callbacks"][AVERAGES] for name in ("whole", "broken"))
    assert one["snapshots"] == other["snapshots"]
    assert [step for step, _ in one["snapshots"]] == list(range(2, 21, 2))
    for width, weights in one["averages"].items():
        assert all(torch.equal(value, other["averages"][width][name]) for name, value in weights.items())


def test_the_loss_at_a_length_is_measured_as_that_of_the_exponential_average(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the exponential average in place of rebuilt weights, both are the same number, and so is the distance."""

    def own(self: PowerAverages, *_: Any) -> Any:
        yield from ((n, p.detach().clone()) for n, p in self.average.averaged().model.named_parameters())

    averages: list[PowerAverages] = []
    make = PowerAverages.__init__
    monkeypatch.setattr(PowerAverages, "__init__", lambda self, *a: (averages.append(self), make(self, *a))[1])
    monkeypatch.setattr(ema_profiles, "rebuild", lambda *a: own(averages[-1], *a))
    sampling = {"quality_images": 12, "ar_steps": 2, "ode_steps": 2}
    config = tiny(ema={**EMA, "lengths": [0.07]}, trainer=LONG, sampling=sampling, data={"val_images": 50})
    metrics = run(config, tmp_path / "trial").metrics
    assert metrics["val/loss_ema_0.070"] == pytest.approx(metrics["val/loss_ema"], rel=1e-6)
    assert metrics["eval/fid_pixels_ema_0.070"] == metrics["eval/fid_pixels"]


def test_lengths_differ_in_what_is_measured(tiny: Tiny, tmp_path: Path) -> None:
    sampling = {"quality_images": 12, "ar_steps": 2, "ode_steps": 2}
    ema = {**EMA, "lengths": [0.05, 0.1]}
    metrics = run(tiny(ema=ema, trainer=LONG, sampling=sampling), tmp_path / "trial").metrics
    for name in ("val/loss", "eval/fid_pixels"):
        assert metrics[f"{name}_ema_0.050"] != metrics[f"{name}_ema_0.100"]


def test_accumulated_micro_batches_are_one_step_of_the_averages(
    tiny: Tiny, tmp_path: Path, weights_of_steps: dict[int, dict[str, torch.Tensor]]
) -> None:
    (tmp_path / "trial").mkdir()
    run_trial(tiny(ema=EMA, trainer=LONG), tmp_path / "trial", resources=ResourcesConfig(accumulate_grad_batches=4))
    kept = saved(tmp_path / "trial")["callbacks"][AVERAGES]["averages"][0.05]
    for name, value in kept.items():
        assert torch.allclose(value.double(), tracked(weights_of_steps, 0.05, name), atol=1e-6)


def test_a_damaged_snapshot_costs_the_measurement_and_not_the_trial(tiny: Tiny, tmp_path: Path) -> None:
    config, folder = tiny(ema={**EMA, "lengths": [0.06]}, trainer=LONG), tmp_path / "trial"
    with pytest.raises(KilledError):
        run(config, folder, kill_at=9)
    path = Snapshot(4, "").file(folder)
    path.write_bytes(path.read_bytes()[:-1])
    result = run(config, folder)
    assert result.status == "done"
    assert result.problems == (f"{path} is damaged: its contents are not what was written",)
    assert "val/loss_ema_0.060" not in result.metrics
    with pytest.raises(ValueError, match=r"step-00000004.safetensors is damaged"):
        load(folder, ema=0.06)


def test_a_cell_that_goes_on_with_the_training_of_another_has_its_averages_and_snapshots(
    tiny: Tiny, tmp_path: Path
) -> None:
    """The budget is raised, and lengths are asked for: as if the first cell had never ended, bit for bit."""
    ema = {**EMA, "snapshot_every_images": 16}
    source = tiny(ema=ema, trainer={**LONG, "max_images": 160})
    run(source, tmp_path / source.config_hash())
    more = {"ema": {**ema, "lengths": [0.04, 0.06]}, "trainer": LONG}
    longer = run(tiny(**more, start={"cell": source.config_hash(), "state": "training"}), tmp_path / "longer")
    whole = run(tiny(**more), tmp_path / "whole")
    assert len(files(tmp_path / "whole")) == 20
    assert files(tmp_path / "longer") == files(tmp_path / "whole")
    for name in ("val/loss_ema_0.040", "val/loss_ema_0.060", "val/loss_ema"):
        assert longer.metrics[name] == whole.metrics[name]


def test_a_checkpoint_without_these_averages_is_refused(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(ema=EMA, trainer=LONG)
    with monkeypatch.context() as patch:
        patch.setattr(PowerAverages, "state_dict", lambda _: {})
        with pytest.raises(KilledError):
            run(config, tmp_path / "trial", kill_at=9)
    with pytest.raises(ValueError, match=r"holds no averages of ema.profiles=\[0.05, 0.1\], which start at step 0"):
        run(config, tmp_path / "trial")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trial with profiles."""
    folder = tmp_path_factory.mktemp("trained")
    run_trial(from_dict(TrialConfig, {**TINY, "ema": EMA, "trainer": LONG}), folder)
    return folder


def test_images_of_a_length_have_it_in_their_recipe(trained: Path, tmp_path: Path) -> None:
    line = [f"checkpoint={trained}", "images=2", "ar_steps=2", "ode_steps=2"]
    assert COMMAND.main([*line, f"out={tmp_path / 'a'}", "ema=0.06"]) == 0
    assert COMMAND.main([*line, f"out={tmp_path / 'b'}"]) == 0
    assert '"weights": "ema 0.06"' in (tmp_path / "a/recipe.json").read_text()
    assert (tmp_path / "a/samples.npz").read_bytes() != (tmp_path / "b/samples.npz").read_bytes()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (["ema=0.06", "weights=raw"], "ema=0.06 is a length of averaged weights, and weights=raw are not averaged"),
        (["ema=0.01"], "ema=0.01 cannot be rebuilt from 10 snapshots of the profiles [0.05, 0.1]"),
        (["ema=0.3"], "ema=0.3 is not a relative width between 0 and 0.28"),
    ],
)
def test_what_cannot_be_sampled_is_refused_in_one_sentence(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: list[str], sentence: str
) -> None:
    assert COMMAND.main([f"checkpoint={trained}", f"out={tmp_path / 'out'}", *fields]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_model_and_a_trial_without_profiles_have_no_other_length(tiny: Tiny, trained: Path, tmp_path: Path) -> None:
    save_model(load(trained), tmp_path / "model")
    with pytest.raises(ValueError, match=r"ema=0.1 needs a cell's folder or a checkpoint"):
        load(tmp_path / "model", ema=0.1)
    run(tiny(), tmp_path / "plain")
    with pytest.raises(ValueError, match=r"ema=0.1 needs averages that .* does not hold: train with ema.profiles"):
        load(tmp_path / "plain", ema=0.1)
    shutil.copy(trained / "step-00000020.ckpt", tmp_path / "alone.ckpt")
    with pytest.raises(ValueError, match=r"step-00000002.safetensors is missing"):
        load(tmp_path / "alone.ckpt", ema=0.1)


@pytest.mark.parametrize(
    ("ema", "sentence"),
    [
        ({"profiles": [0.05, 0.3]}, "ema: profiles: 0.3 is not a relative width between 0 and 0.28"),
        ({"profiles": [0.0, 0.1]}, "ema: profiles: 0 is not a relative width between 0 and 0.28"),
        ({"profiles": [0.05, 0.1, 0.05]}, r"ema: profiles: \[0.05, 0.1, 0.05\] names 0.050 twice, to three decimals"),
        ({**EMA, "lengths": [0.0701, 0.0702]}, r"ema: lengths: \[0.0701, 0.0702\] names 0.070 twice"),
        ({"lengths": [0.1]}, r"ema: lengths are rebuilt from two profiles or more: give ema.profiles=\[0.05,0.1\]"),
        ({"profiles": [0.1], "lengths": [0.1]}, "ema: lengths are rebuilt from two profiles or more"),
        ({"snapshot_every_images": 100}, "ema: snapshot_every_images is for snapshots of profiles"),
        ({**EMA, "lengths": [0.2]}, "ema.lengths: 0.2 cannot be rebuilt from 10 snapshots .* or snapshots more often"),
    ],
)
def test_bad_fields_are_refused_in_one_sentence(tiny: Tiny, ema: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        tiny(ema=ema, trainer=LONG)


def test_a_length_is_allowed_once_there_are_snapshots_enough(tiny: Tiny) -> None:
    ema = {**EMA, "lengths": [0.13]}
    with pytest.raises(ValueError, match="cannot be rebuilt from 3 snapshots"):
        tiny(ema={**ema, "snapshot_every_images": 112}, trainer=LONG)
    assert tiny(ema={**ema, "snapshot_every_images": 16}, trainer=LONG).ema_snapshots == tuple(range(1, 21))
    assert tiny(ema={**EMA, "snapshot_every_images": 100}, trainer=LONG).ema_snapshots == (7, 14, 20)
    assert tiny(ema=EMA, trainer={"max_images": 16 * 1600}).ema_snapshots == tuple(range(100, 1601, 100))


def test_a_trial_has_no_more_snapshots_than_can_be_combined(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match=r"snapshot_every_images=16 makes 257 snapshots: a trial has 256 at most"):
        tiny(ema={**EMA, "snapshot_every_images": 16}, trainer={"max_images": 16 * 257})
    assert len(tiny(ema={**EMA, "snapshot_every_images": 16}, trainer={"max_images": 16 * 256}).ema_snapshots) == 256


def test_defaults_are_not_in_the_hash_and_profiles_are(tiny: Tiny) -> None:
    plain = tiny(trainer=LONG)
    assert replace(plain, ema=replace(plain.ema, profiles=(), lengths=())).config_hash() == plain.config_hash()
    ema = EmaConfig(decay=0.5, every_n_steps=1, profiles=(0.05, 0.1))
    hashes = {replace(plain, ema=each).config_hash() for each in (ema, replace(ema, lengths=(0.07,)))}
    assert len({plain.config_hash(), *hashes}) == 3
