"""What a trial's log says once a minute."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers.logger import Logger

from lina_lab.config import TrialConfig
from lina_lab.config.extras import LOGGERS, LoggerEntry
from lina_lab.model import count
from lina_lab.records.result import Progress, duration
from lina_lab.training.callbacks import progress as progress_module
from lina_lab.training.callbacks.progress import ProgressMeter
from lina_lab.training.trial import run_trial

Tiny = Callable[..., TrialConfig]


def test_a_line_has_all_that_says_whether_a_long_run_is_well(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet: list[Progress] = []
    (tmp_path / "quiet").mkdir()
    before = run_trial(tiny(), tmp_path / "quiet", log=quiet.append)
    assert quiet == []  # it takes less than a minute
    monkeypatch.setattr(progress_module, "LINE_SECONDS", 0.0)
    lines: list[Progress] = []
    (tmp_path / "loud").mkdir()
    after = run_trial(tiny(), tmp_path / "loud", log=lines.append)
    assert after.metrics == before.metrics  # looking changes no number
    assert [line.step for line in lines] == [2, 3, 4]
    for line in lines:
        assert line.learning_rate == 1e-3
        assert line.gradient_norm is not None
        assert math.isfinite(line.gradient_norm)
        assert line.gradient_norm > 0
        assert line.images_per_second is not None
        assert line.images_per_second > 0
        assert line.memory_mib is not None
        assert line.memory_mib > 50
    assert len({line.gradient_norm for line in lines}) == 3
    assert (lines[1].images, lines[1].total_images) == (48, 64)
    assert lines[-1].seconds_left == 0
    text = str(lines[0])
    assert text.startswith("step 2, 32 of 64 images (50.0%), loss ")
    for part in ("learning rate 0.001", "gradient norm ", "images/s", "MiB", "left"):
        assert part in text


class Points(Logger):
    """Keeps what is logged: name, images and value."""

    name = version = "points"

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[str, int, float]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.points += [(name, step or 0, value) for name, value in metrics.items()]

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def test_the_tracker_gets_with_each_line_what_it_says(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = Points()
    monkeypatch.setitem(
        LOGGERS.builtin, "points", LoggerEntry(name="points", documentation="", maker=lambda *_: points)
    )
    config = tiny(trainer={"max_images": 64, "val_every_images": 64, "loggers": ["points"]})
    run_trial(config, tmp_path)
    speed = ["wall/images_per_second", "wall/memory_mib", "wall/hours_left"]
    for name in speed:
        assert [images for own, images, _ in points.points if own == name] == [64]  # at the validation alone
    points.points.clear()
    monkeypatch.setattr(progress_module, "LINE_SECONDS", 0.0)
    lines: list[Progress] = []
    (tmp_path / "loud").mkdir()
    run_trial(config, tmp_path / "loud", log=lines.append)
    for name, of in zip(speed, [lambda p: p.images_per_second, lambda p: p.memory_mib], strict=False):
        logged = {images: value for own, images, value in reversed(points.points) if own == name}
        assert logged.keys() == {32, 48, 64}
        assert [logged[line.images] for line in lines] == [of(line) for line in lines]
    left = [value for name, _, value in points.points if name == "wall/hours_left"]
    assert left[0] > left[1] > left[-1] == 0


def test_the_share_of_peak_is_the_model_s_flops_over_those_of_all_devices(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without GPUs: what Lightning would say of one is made up."""
    monkeypatch.setattr(progress_module, "get_available_flops", lambda device, dtype: 1e6)
    timer, config = SimpleNamespace(so_far=0.0), tiny()
    meter = ProgressMeter(config, timer, lambda: 0.0)  # type: ignore[arg-type]
    module = SimpleNamespace(device=torch.device("cuda"), images_seen=0, gradient_norm=None, distillation=None)
    meter.on_train_start(SimpleNamespace(world_size=2), module)  # type: ignore[arg-type]
    timer.so_far, module.images_seen = 2.0, 32
    flops = count.FLOPS_PER_MULTIPLY_ADD * count.training_operations(config.model).total
    assert meter.step_ended(module, 2, 1.0).share_of_peak == pytest.approx(16 * flops / 2e6)
    assert "% of peak" in str(meter.step_ended(module, 2, 1.0))


def test_progress_is_read_from_other_versions_too() -> None:
    old = {"images": 5, "loss": 0.5}
    assert Progress.from_dict(old) == Progress(images=5, loss=0.5)
    assert Progress.from_dict({**old, "later": 1}) == Progress(images=5, loss=0.5)
    assert str(Progress(images=5, loss=0.5)) == "5 images, loss 0.5000"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (61, "1 min"), (3590, "1 h 00 min"), (4000, "1 h 07 min"), (200_000, "2 d 8 h")],
)
def test_times_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
