"""Trials of the tasks beside generation."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lina_lab.config import TrialConfig
from lina_lab.data import make_data
from lina_lab.evaluation.weights import load_trained
from lina_lab.training.trial import run_trial

Tiny = Callable[..., TrialConfig]


@pytest.mark.parametrize("task", ["classification", "diffusion"])
def test_a_trial_of_a_task_comes_to_a_result(tiny: Tiny, tmp_path: Path, task: str) -> None:
    """The same in a second run, and with samples where the task generates images."""
    config = tiny(model={"task": task})
    results = [run_trial(config, tmp_path / name) for name in ("one", "two")]
    assert [(result.status, result.error) for result in results] == [("done", None)] * 2
    assert {"train/loss", "val/loss_raw", "val/loss_ema"} <= results[0].metrics.keys()
    assert results[0].metrics == results[1].metrics
    assert (tmp_path / "one" / "samples.png").exists() == (task == "diffusion")
    assert (tmp_path / "one" / "samples.npz").exists() == (task == "diffusion")


@pytest.mark.parametrize("task", ["classification", "diffusion"])
def test_a_task_learns(tiny: Tiny, tmp_path: Path, task: str) -> None:
    config = tiny(
        model={"task": task, "dim": 32},
        optimizer={"lr": 4e-3},
        trainer={"max_images": 2400, "val_every_images": 2400},
        sampling={"images_per_class": 0},
    )
    losses = []
    run_trial(config, tmp_path, report=lambda progress: losses.append(progress.loss))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_a_classifier_s_accuracy_is_the_share_of_right_classes(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(model={"task": "classification", "attention": {"gate": "none"}}, sampling={"images_per_class": 0})
    result = run_trial(config, tmp_path)
    model = load_trained(tmp_path).model
    images, condition = make_data(config).val_set[torch.arange(config.data.val_images)]
    with torch.no_grad():
        right = model.logits(images).argmax(1) == condition["label"]
    assert result.metrics["val/accuracy_ema"] == pytest.approx(right.float().mean().item(), abs=1e-6)
    assert {"val/accuracy_ema", "val/accuracy_raw"} <= result.metrics.keys()
