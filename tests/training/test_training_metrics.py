"""What the tracker shows of a training while it runs."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lina_lab.config import TrialConfig
from lina_lab.config.metrics import METRICS
from lina_lab.records.curve import read_curve
from lina_lab.records.runstore import TrackingRun
from lina_lab.training.spikes import ENOUGH, Spikes
from tests.training.test_resume import KilledError, final, run

Tiny = Callable[..., TrialConfig]
LONG = {"max_images": 480, "val_every_images": 192}
"""30 steps, with validations after 12, 24 and 30."""
WALL = ("wall/images_per_second", "wall/memory_mib")
MEASURED = ("watch/lr", "watch/gradient_norm", "watch/loss_spikes")


def curves(config: TrialConfig, folder: Path, kill_at: int | None = None) -> dict[str, list[tuple[int, float]]]:
    """Name -> points over images, of a trial that is killed and goes on."""
    folder.mkdir()
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(uri)
    tracking = TrackingRun(uri=uri, run_id=client.create_run(client.create_experiment("one")).info.run_id)
    if kill_at is not None:
        with pytest.raises(KilledError):
            run(config, folder, tracking=tracking, kill_at=kill_at)
    result = run(config, folder, tracking=tracking)
    assert result.metrics.keys() == {"train/loss", "val/loss_raw", "val/loss_ema"}
    names = client.get_run(tracking.run_id).data.metrics
    return {
        name: [(point.step, point.value) for point in client.get_metric_history(tracking.run_id, name)]
        for name in names
    }


def test_rate_and_norm_are_logged_now_and_then_and_speed_memory_and_spikes_at_validations(
    tiny: Tiny, tmp_path: Path
) -> None:
    found = curves(tiny(trainer=LONG, optimizer={"schedule": "linear"}), tmp_path / "x")
    assert len(found["train/loss"]) == 30
    # Of every tenth step and of the last one before each validation, where the loss of the step is.
    steps = [10, 12, 20, 24, 30]
    assert [images for images, _ in found["watch/lr"]] == [16 * (step - 1) for step in steps]
    assert [rate for _, rate in found["watch/lr"]] == pytest.approx([1e-3 * (1 - (step - 1) / 30) for step in steps])
    assert [images for images, _ in found["watch/gradient_norm"]] == [16 * (step - 1) for step in steps]
    assert all(norm > 0 and math.isfinite(norm) for _, norm in found["watch/gradient_norm"])
    for name in (*WALL, "watch/loss_spikes"):
        assert [images for images, _ in found[name]] == [192, 384, 480], name
    assert all(rate > 0 for _, rate in found["wall/images_per_second"])
    assert all(memory > 50 for _, memory in found["wall/memory_mib"])
    assert "wall/share_of_peak" not in found  # nobody states a CPU's


def test_fewer_logged_losses_are_fewer_rates(tiny: Tiny, tmp_path: Path) -> None:
    found = curves(tiny(trainer={**LONG, "log_every_n_steps": 2}), tmp_path / "x")
    assert [images for images, _ in found["train/loss"]] == [16 * (step - 1) for step in range(2, 31, 2)]
    assert [images for images, _ in found["watch/lr"]] == [16 * (step - 1) for step in (12, 20, 24, 30)]


def test_an_interrupted_trial_logs_what_an_uninterrupted_one_does(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(trainer=LONG, optimizer={"schedule": "cosine", "clip_norm": 0.5})
    whole, broken = curves(config, tmp_path / "whole"), curves(config, tmp_path / "broken", kill_at=17)
    for name in ("train/loss", "val/loss_ema", *MEASURED):
        assert broken[name] == whole[name], name


def test_a_cell_that_goes_on_with_another_one_keeps_its_own_curve(tiny: Tiny, tmp_path: Path) -> None:
    """Interrupted or not, so that a tracking store that is lost gets it again."""
    run(tiny(trainer={**LONG, "max_images": 192}), tmp_path / "trunk")
    start = {"source": str(tmp_path / "trunk"), "state": "training"}
    config = tiny(trainer=LONG, optimizer={"schedule": "wsd", "cooldown": 0.5}, start=start)
    for name, kill_at in (("whole", None), ("broken", 26)):
        found = curves(config, tmp_path / name, kill_at)
        kept = read_curve(tmp_path / name)
        assert kept is not None
        for metric in ("train/loss", "watch/lr", "val/loss_ema"):
            assert [(step, value) for own, value, step, _ in kept if own == metric] == found[metric], metric
        assert found["train/loss"][0][0] == 192


def test_none_of_it_is_an_objective() -> None:
    assert not {*WALL, *MEASURED, "wall/share_of_peak"} & {*METRICS.builtin}


def noisy(steps: int, seed: int = 0) -> list[float]:
    generator = random.Random(seed)
    return [2 * math.exp(-n / 500) + 0.1 * generator.gauss(0, 1) for n in range(steps)]


def counted(losses: list[float]) -> int:
    spikes = Spikes()
    for loss in losses:
        spikes.update(loss)
    return spikes.count


def test_planted_spikes_are_counted_and_noise_is_not() -> None:
    losses = noisy(2000)
    assert counted(losses) == 0
    for at in (300, 700, 1500):
        losses[at] += 2
    assert counted(losses) == 3


def test_steps_in_a_row_are_one_spike_and_a_fall_is_none() -> None:
    losses = noisy(400)
    losses[200:230] = [loss + 3 for loss in losses[200:230]]
    losses[300:] = [loss - 3 for loss in losses[300:]]
    assert counted(losses) == 1


def test_nothing_counts_before_there_is_something_to_compare_with() -> None:
    losses = noisy(ENOUGH + 1)
    losses[ENOUGH - 1] += 100
    assert counted(losses) == 0
    losses[ENOUGH] += 100
    assert counted(losses) == 1


def test_the_count_goes_on_from_a_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    losses = noisy(300)
    for at in (50, 51, 150, 250):
        losses[at] += 2
    for cut in (20, 51, 151, 299):
        first, second = Spikes(), Spikes()
        for loss in losses[:cut]:
            first.update(loss)
        second.load_state_dict(first.state_dict())
        for loss in losses[cut:]:
            second.update(loss)
        assert second.count == counted(losses) == 3
    config = tiny(trainer=LONG)
    run(config, tmp_path / "whole")
    with pytest.raises(KilledError):
        run(config, tmp_path / "broken", kill_at=17)
    run(config, tmp_path / "broken")
    states = [final(tmp_path / name)["callbacks"]["ProgressMeter"] for name in ("whole", "broken")]  # type: ignore[index]
    assert states[0] == states[1]
    assert len(states[0]["losses"]) == 30
