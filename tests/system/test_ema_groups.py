"""Averages by power functions in groups of processes: whole and sharded weights give those of one process."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lina_lab.config import TrialConfig
from lina_lab.evaluation.posthoc import AVERAGES
from lina_lab.training.trial import run_trial
from tests.training.old_checkpoints import as_of, last, load

from .test_groups import alone, steady, train

pytestmark = pytest.mark.system
Tiny = Callable[..., TrialConfig]
EMA = {"decay": 0.5, "every_n_steps": 1, "profiles": [0.05, 0.1], "lengths": [0.06], "snapshot_every_images": 16}
SAMPLING = {"quality_images": 31, "images_per_class": 0}


def measured(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.endswith("_ema_0.060")}


def test_two_ranks_average_measure_and_resume_as_one(tiny: Tiny, tmp_path: Path) -> None:
    """One process takes the first half and two ranks the second; snapshots, averages and measurements are the same."""
    config = steady(tiny, ema=EMA, sampling=SAMPLING)
    whole = alone(config, tmp_path / "whole")
    half = replace(
        config,
        trainer=replace(config.trainer, max_images=80),
        ema=replace(config.ema, lengths=()),
    )
    folder = tmp_path / "parts"
    alone(half, folder)
    as_of(config, last(folder).path)
    several = train(config, folder, devices=2, strategy="fsdp", accelerator="cpu")
    assert (several.ranks, several.resumed_at, several.problems) == (2, 5, ())
    assert measured(whole.metrics).keys() == {"val/loss_ema_0.060", "eval/fid_pixels_ema_0.060"}
    assert measured(several.metrics) == pytest.approx(measured(whole.metrics), rel=1e-3)
    names = sorted(path.name for path in (tmp_path / "whole/ema").iterdir())
    assert names == sorted(path.name for path in (folder / "ema").iterdir())
    for name in names:
        one, other = (load_file(path / "ema" / name) for path in (tmp_path / "whole", folder))
        assert one.keys() == other.keys()
        assert all(torch.allclose(value, other[key], atol=1e-5) for key, value in one.items()), name
    states = [load(last(path).path)["callbacks"][AVERAGES] for path in (tmp_path / "whole", folder)]
    for width in (0.05, 0.1):
        one, other = (state["averages"][width] for state in states)
        assert all(torch.allclose(value, other[key], atol=1e-5) for key, value in one.items())


def test_one_process_goes_on_with_the_averages_of_sharded_weights(tiny: Tiny, tmp_path: Path) -> None:
    config = steady(tiny, ema=EMA, sampling=SAMPLING)
    half = replace(
        config,
        trainer=replace(config.trainer, max_images=80),
        ema=replace(config.ema, lengths=()),
        checkpoint=replace(config.checkpoint, distributed=True),
    )
    train(half, tmp_path / "parts", devices=2, strategy="fsdp", accelerator="cpu")
    as_of(config, last(tmp_path / "parts").path)
    end = run_trial(config, tmp_path / "parts")
    whole = alone(config, tmp_path / "whole")
    assert measured(end.metrics) == pytest.approx(measured(whole.metrics), rel=1e-3)
