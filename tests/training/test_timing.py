"""Clocks of a trial: what they count, over several attempts and across versions."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lina_lab.config import TrialConfig
from lina_lab.training.callbacks.timing import FETCH, TRAIN, StepProfiler, TrialTimer
from lina_lab.training.checkpoints import newest
from lina_lab.training.module import LinaModule
from lina_lab.training.trial import run_trial

Tiny = Callable[..., TrialConfig]
OTHER: Any = None
"""Stands for a trainer and a module that the timer does not look at."""


class Clock:
    """A clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for name in ("monotonic", "perf_counter"):
            monkeypatch.setattr(time, name, lambda: self.now)

    def pass_seconds(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_profiler_leaves_out_what_sets_things_up_and_keeps_no_durations(clock: Clock) -> None:
    profiler = StepProfiler()
    assert (profiler.data_seconds, profiler.step_seconds) == (0.0, 0.0)
    for number in range(6):
        for action, seconds in ((FETCH, 1.0), (TRAIN, 100.0 if number < 3 else 4.0), ("another", 50.0)):
            profiler.start(action)
            clock.pass_seconds(seconds)
            profiler.stop(action)
    assert (profiler.data_seconds, profiler.step_seconds) == (1.0, 5.0)
    assert not profiler.recorded_durations


def attempt(timer: TrialTimer, clock: Clock) -> None:
    """Ten seconds of training and three of validation, in two epochs; a second after the last lap is lost."""
    timer.on_train_start(OTHER, OTHER)
    for training, validating in ((6.0, 2.0), (4.0, 1.0)):
        clock.pass_seconds(training)
        timer.on_validation_start(OTHER, OTHER)
        clock.pass_seconds(validating)
        timer.on_validation_end(OTHER, OTHER)
        timer.on_train_epoch_end(OTHER)
    assert timer.so_far == 10.0 + (timer.training - 13.0) - (timer.validating - 3.0)
    clock.pass_seconds(1.0)


def test_the_timer_counts_over_all_attempts_and_validation_apart(clock: Clock) -> None:
    first, second = TrialTimer(), TrialTimer()
    attempt(first, clock)
    assert (first.training, first.validating) == (13.0, 3.0)
    second.load_state_dict(first.state_dict())
    clock.pass_seconds(500.0)
    attempt(second, clock)
    assert (second.training, second.validating) == (26.0, 6.0)
    assert second.so_far == 21.0
    second.on_exception(OTHER, OTHER, RuntimeError())
    assert (second.training, second.validating) == (27.0, 6.0)


def test_the_timer_takes_over_what_version_0_1_wrote(clock: Clock) -> None:
    timer = TrialTimer()
    timer.load_state_dict({"training": 13.0, "validating": 3.0})
    # A checkpoint of the last step: nothing is trained any more.
    assert (timer.training, timer.validating, timer.so_far) == (13.0, 3.0, 10.0)
    attempt(timer, clock)
    assert timer.state_dict() == {"training": 26.0, "validating": 6.0}


def test_a_trial_counts_its_validation_apart_and_not_in_its_speed(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LinaModule.validation_step

    def slow(self: LinaModule, *arguments: Any) -> None:
        time.sleep(0.05)
        original(self, *arguments)

    monkeypatch.setattr(LinaModule, "validation_step", slow)
    result = run_trial(tiny(), tmp_path)
    assert result.threads == 1
    found, _ = newest(tmp_path)
    assert found is not None
    seconds = torch.load(found.path, weights_only=True)["callbacks"]["Stopwatch"]
    # Two validations of two loaders with two batches each.
    assert seconds["validating"] > 8 * 0.05
    assert result.images_per_second == pytest.approx(64 / (seconds["training"] - seconds["validating"]))
