"""A trial that goes on with the training of a source as if that had never ended."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lina_lab.config import ResourcesConfig, StartConfig, TrialConfig
from lina_lab.records.result import Progress
from lina_lab.training.stopping import StopSignals
from lina_lab.training.trial import run_trial
from lina_lab.util.compat.lightning import fit_loop_after
from tests.training.old_checkpoints import as_version_0_1_wrote_it, last
from tests.training.starts import STATES, path_of, run, weights_of
from tests.training.test_resume import KilledError, assert_same_state, final

Tiny = Callable[..., TrialConfig]

# Source: 64 images with a validation after each 32, so its last epoch is whole or, with 48, shorter.
EXTENSIONS = {
    "whole epochs": ({"val_every_images": 32}, {}),
    "a shorter last epoch": ({"val_every_images": 48}, {}),
    "other validations": ({"val_every_images": 32}, {"val_every_images": 48}),
    "fewer validations": ({"val_every_images": 16}, {"val_every_images": 1000}),
}


@pytest.mark.parametrize("case", EXTENSIONS)
def test_an_extended_trial_equals_one_that_was_never_cut(tiny: Tiny, tmp_path: Path, case: str) -> None:
    """Losses, validations, weights, averages, optimizer and schedule, bit for bit."""
    first, changed = EXTENSIONS[case]
    study, warm = tmp_path / "study", {"warmup_images": 100}
    run(tiny(trainer={"max_images": 64, **first}, optimizer=warm), study / "short")
    later = {"max_images": 128, **first, **changed}
    whole, losses = run(tiny(trainer=later, optimizer=warm), study / "whole")
    config = tiny(trainer=later, optimizer=warm, start=path_of(study / "short", state="training"))
    longer, continued = run(config, study / "long")
    assert continued == {images: loss for images, loss in losses.items() if images > 64}
    assert (longer.steps, longer.images_seen, longer.metrics) == (8, 128, whole.metrics)
    assert longer.origin == f"goes on with the training of {study / 'short'}"
    states = [final(study / name) for name in ("whole", "long")]
    for part in STATES:
        assert_same_state(states[0][part], states[1][part], part)


@pytest.mark.parametrize("kills", [[80], [112], [80, 112]], ids=str)
def test_an_interrupted_extension_equals_an_uninterrupted_one(tiny: Tiny, tmp_path: Path, kills: list[int]) -> None:
    study, trainer = tmp_path / "study", {"max_images": 64, "val_every_images": 48}
    run(tiny(trainer=trainer), study / "short")
    config = tiny(trainer={**trainer, "max_images": 128}, start=path_of(study / "short", state="training"))
    whole, losses = run(config, study / "whole")
    found: dict[int, float] = {}
    for images in kills:
        with pytest.raises(KilledError):
            run(config, study / "broken", kill_at=images)
    broken, found = run(config, study / "broken")
    assert (broken.metrics, broken.origin) == (whole.metrics, whole.origin)
    assert found == {images: loss for images, loss in losses.items() if images > (96 if kills[-1] > 96 else 64)}
    states = [final(study / name) for name in ("whole", "broken")]
    for part in STATES:
        assert_same_state(states[0][part], states[1][part], part)


@pytest.mark.parametrize("steps", [5, 7, 10], ids=["a whole epoch", "within an epoch", "all"])
def test_progress_after_some_steps_is_what_a_checkpoint_there_holds(tiny: Tiny, tmp_path: Path, steps: int) -> None:
    """With two batches a step; from a checkpoint that was saved at the same step, in epochs of another length."""
    layout = ResourcesConfig(accumulate_grad_batches=2)

    def saved(name: str, **trainer: Any) -> dict[str, Any]:
        requests = StopSignals()

        def report(progress: Progress) -> None:
            # It leaves after the next step.
            requests.leave = progress.step == steps - 1 and steps == 7

        (tmp_path / name).mkdir()
        run_trial(tiny(trainer=trainer), tmp_path / name, resources=layout, report=report, requests=requests)
        path = tmp_path / name / f"step-{steps:08d}.ckpt"
        return torch.load(path, weights_only=True)["loops"]["fit_loop"]  # type: ignore[no-any-return]

    expected = saved("expected", max_images=160, val_every_images=80)
    found = saved("other", max_images=16 * steps, val_every_images=48)
    fit_loop_after(found, steps, 5, 2)
    for name in ("epoch_progress", "epoch_loop.batch_progress", "epoch_loop.state_dict"):
        assert found[name] == expected[name], name


def test_a_chain_of_cells_equals_one_trial(tiny: Tiny, tmp_path: Path) -> None:
    """Cells of a study are found beside each other, by their hash."""
    study, before = tmp_path / "study", None
    for images in (48, 80, 128):
        start = {} if before is None else {"cell": before, "state": "training"}
        config = tiny(trainer={"max_images": images, "val_every_images": 32}, start=start)
        chained, _ = run(config, study / config.config_hash())
        before = config.config_hash()
    whole, _ = run(tiny(trainer={"max_images": 128, "val_every_images": 32}), study / "whole")
    assert before is not None
    assert chained.metrics == whole.metrics
    assert_same_state(weights_of(study / before), weights_of(study / "whole"))


def test_generated_images_are_measured_when_they_would_have_been(tiny: Tiny, tmp_path: Path) -> None:
    """At 96 images and not at 64, where the source ended and measured them."""
    study, every = tmp_path / "study", {"sampling": {"quality_images": 12, "quality_every_images": 64}}
    trainer = {"max_images": 64, "val_every_images": 48}
    run(tiny(trainer=trainer, **every), study / "short")
    config = tiny(trainer={**trainer, "max_images": 144}, **every)
    run(config, study / "whole")
    run(replace(config, start=StartConfig(**path_of(study / "short", state="training"))), study / "long")
    for name in ("whole", "long"):
        saved = torch.load(study / name / "step-00000006.ckpt", weights_only=True)
        assert saved["callbacks"]["Quality"] == {"seen": 96}


def test_a_source_that_version_0_1_wrote_is_gone_on_with(tiny: Tiny, tmp_path: Path) -> None:
    study = tmp_path / "study"
    run(tiny(), study / "short")
    as_version_0_1_wrote_it(last(study / "short").path, "DigitsDataModule")
    whole, _ = run(tiny(trainer={"max_images": 96}), study / "whole")
    start = path_of(study / "short", state="training")
    longer, _ = run(tiny(trainer={"max_images": 96}, start=start), study / "long")
    assert longer.metrics == whole.metrics
    with pytest.raises(ValueError, match=r"start\.state=optimizer: .*short was written by another version of lina_lab"):
        run(tiny(start={**start, "state": "optimizer"}), study / "moments")


def test_metrics_that_the_extension_does_not_measure_are_not_the_source_s(tiny: Tiny, tmp_path: Path) -> None:
    study = tmp_path / "study"
    measured, _ = run(tiny(sampling={"quality_images": 12}), study / "short")
    assert "eval/fid_pixels" in measured.metrics
    start = path_of(study / "short", state="training")
    longer, _ = run(tiny(trainer={"max_images": 96}, start=start), study / "long")
    assert set(longer.metrics) == set(measured.metrics) - {"eval/fid_pixels"}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "rate": ({"optimizer": {"lr": 1e-4}}, r"this one differs \(optimizer\.lr was 0\.001 and is 0\.0001\)"),
    "seed": ({"seed": 3}, r"differs \(seed was 0 and is 3\)"),
    "model": ({"model": {"dim": 16}}, r"differs \(model\.dim was 8 and is 16\)"),
    "budget": ({"trainer": {"max_images": 64}}, r"has trained 64 images, and trainer\.max_images=64 asks for no more"),
    "less": ({"trainer": {"max_images": 32}}, r"has trained 64 images, and trainer\.max_images=32 asks for no more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_trial_or_no_more_images_cannot_be_gone_on_with(
    tiny: Tiny, source: Path, tmp_path: Path, case: str
) -> None:
    changes, sentence = REFUSED[case]
    config = tiny(**{"trainer": {"max_images": 128}, **changes}, start=path_of(source, state="training"))
    with pytest.raises(ValueError, match=sentence):
        run(config, tmp_path / "cell")
    assert list((tmp_path / "cell").iterdir()) == []
