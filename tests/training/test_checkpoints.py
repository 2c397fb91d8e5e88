"""When checkpoints are written, which of them stay, and what happens while one is being written."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lina_lab.config import ResourcesConfig, TrialConfig
from lina_lab.records.checkpoints import checkpoint_files, is_whole
from lina_lab.records.curve import read_curve
from lina_lab.records.result import Progress, TrialResult
from lina_lab.records.runstore import TrackingRun
from lina_lab.training import checkpoint_files as files_module
from lina_lab.training.checkpoint_files import CheckpointFiles
from lina_lab.training.checkpoints import newest
from lina_lab.training.mlflow_logger import BufferedMLflowLogger
from lina_lab.training.stopping import StopSignals
from lina_lab.training.trial import run_trial
from tests.training.test_resume import KilledError, assert_same_state, curve, final, tracked

Tiny = Callable[..., TrialConfig]
__all__ = ["tracked"]
LONG = {"max_images": 160, "val_every_images": 48}
"""Ten steps of 16 images, a validation after each third one and the last."""


def run(
    config: TrialConfig,
    folder: Path,
    *,
    kill_at: int | None = None,
    tracking: TrackingRun | None = None,
    report: Callable[[Progress], None] | None = None,
    **arguments: Any,
) -> TrialResult:
    folder.mkdir(exist_ok=True)

    def observe(progress: Progress) -> None:
        if report is not None:
            report(progress)
        if kill_at is not None and progress.images == 16 * kill_at:
            raise KilledError

    return run_trial(config, folder, report=observe, tracking=tracking, **arguments)


WRITTEN: dict[str, tuple[dict[str, Any], list[int]]] = {
    "validations": ({}, [3, 6, 9, 10]),
    "images": ({"every_images": 40}, [3, 5, 8, 10]),
    "images, rarely": ({"every_images": 1000}, [10]),
    "images, at each step": ({"every_images": 1}, list(range(1, 11))),
    "minutes, at each step": ({"every_minutes": 1e-9}, list(range(1, 11))),
    "minutes, rarely": ({"every_minutes": 60}, [10]),
    "whichever comes first": ({"every_minutes": 60, "every_images": 80}, [5, 10]),
}


@pytest.mark.parametrize(("policy", "steps"), WRITTEN.values(), ids=WRITTEN)
def test_checkpoints_are_written_when_they_are_due_and_at_the_end(
    tiny: Tiny, tmp_path: Path, policy: dict[str, Any], steps: list[int]
) -> None:
    run(tiny(trainer=LONG, checkpoint={**policy, "keep_last": 99}), tmp_path)
    found = checkpoint_files(tmp_path)
    assert list(found) == steps
    assert all(is_whole(path) for path in found.values())


@pytest.mark.parametrize(
    ("kills", "asynchronous"),
    [([2], False), ([3], False), ([6], True), ([5, 5, 9], True), ([4, 7, 10], False)],
    ids=str,
)
def test_a_trial_that_resumes_between_validations_equals_an_undisturbed_one(
    tiny: Tiny, tmp_path: Path, tracked: Callable[[], TrackingRun], kills: list[int], asynchronous: bool
) -> None:
    """Losses, validations, curves, weights, averages and optimizer, bit for bit."""
    changes: dict[str, Any] = {"trainer": LONG, "optimizer": {"warmup_images": 100}}
    config = tiny(**changes, checkpoint={"every_images": 32, "asynchronous": asynchronous})
    whole_run, broken_run, seen = tracked(), tracked(), dict[int, float]()

    def report(progress: Progress) -> None:
        assert seen.setdefault(progress.images, progress.loss) == progress.loss

    whole = run(tiny(**changes), tmp_path / "whole", tracking=whole_run, report=report)
    for step in kills:
        with pytest.raises(KilledError):
            run(config, tmp_path / "broken", kill_at=step, tracking=broken_run, report=report)
    broken = run(config, tmp_path / "broken", tracking=broken_run, report=report)
    assert broken.resumed_at == {2: None, 3: 2, 6: 4, 9: 8, 10: 8}[kills[-1]]
    assert broken.metrics == whole.metrics
    for name in ("train/loss", "val/loss_ema", "val/loss_raw"):
        assert curve(broken_run, name) == curve(whole_run, name)
    states = [final(tmp_path / name) for name in ("whole", "broken")]
    for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert_same_state(states[0][part], states[1][part], part)


def test_the_loss_of_a_step_whose_checkpoint_is_saved_outlives_the_process(
    tiny: Tiny, tmp_path: Path, tracked: Callable[[], TrackingRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning logs it after the checkpoint; a process that is killed then has sent nothing."""
    config, whole_run, broken_run = tiny(trainer=LONG, checkpoint={"every_images": 32}), tracked(), tracked()
    run(config, tmp_path / "whole", tracking=whole_run)
    with monkeypatch.context() as patch:
        patch.setattr(BufferedMLflowLogger, "flush", lambda self: None)
        with pytest.raises(KilledError):
            run(config, tmp_path / "broken", kill_at=5, tracking=broken_run)
    (tmp_path / "broken" / "unsent.jsonl").unlink()  # a killed process writes none
    run(config, tmp_path / "broken", tracking=broken_run)
    for name in ("train/loss", "val/loss_ema"):
        assert curve(broken_run, name) == curve(whole_run, name)
    curves = [read_curve(tmp_path / name) or [] for name in ("whole", "broken")]
    losses = [[(step, value) for name, value, step, _ in points if name == "train/loss"] for points in curves]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 10


def test_a_step_whose_checkpoint_is_saved_is_logged_once(tiny: Tiny, tmp_path: Path) -> None:
    run(tiny(trainer=LONG | {"loggers": ["tensorboard"]}, checkpoint={"every_images": 16}), tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(0, 160, 16))


@pytest.mark.parametrize("limit", ["signal", "time"])
def test_a_trial_that_leaves_before_a_validation_measures_it_first(tiny: Tiny, tmp_path: Path, limit: str) -> None:
    """Lightning does not repeat a validation that follows a checkpoint at once."""
    requests, seen, config = StopSignals(), list[tuple[int, int | None]](), tiny(trainer=LONG)

    def report(progress: Progress) -> None:
        seen.append((progress.images, progress.validated_images))
        requests.leave = limit == "signal" and progress.images == 32

    if limit == "time":
        config = tiny(trainer=LONG | {"val_every_images": 16})
    resources = ResourcesConfig(max_minutes=1e-9 if limit == "time" else None)
    first = run(config, tmp_path, report=report, requests=requests, resources=resources)
    assert (first.steps, first.status) == ((3, "preempted") if limit == "signal" else (1, "cancelled"))
    assert seen[-1] == (16 * first.steps, 16 * first.steps)
    second = run(config, tmp_path, report=report)
    assert (second.resumed_at, second.status) == (first.steps, "done")
    validations = [images for images, validated in seen if images == validated]
    assert validations == ([48, 96, 144, 160] if limit == "signal" else list(range(16, 161, 16)))


def test_the_checkpoint_of_the_best_validation_stays(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the direction of the metric, and through an interruption; what is no number is never the best."""
    from lina_lab.training.module import LinaModule

    losses = {3: 0.5, 6: 0.2, 9: float("nan"), 10: 0.3}
    original = LinaModule.log

    def log(module: LinaModule, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        planted = torch.tensor(losses[module.global_step]) if name == "val/loss_raw" else value
        original(module, name, planted, *args, **kwargs)

    monkeypatch.setattr(LinaModule, "log", log)
    policy = {"keep_best": "val/loss_raw", "keep_last": 1, "every_images": 1000}
    with pytest.raises(KilledError):
        run(tiny(trainer=LONG, checkpoint=policy), tmp_path, kill_at=7)
    result = run(tiny(trainer=LONG, checkpoint=policy), tmp_path)
    assert result.resumed_at == 6
    assert list(checkpoint_files(tmp_path)) == [6, 10]
    assert json.loads((tmp_path / "best.json").read_text()) == {
        "metric": "val/loss_raw",
        "value": pytest.approx(0.2),
        "step": 6,
    }


def test_the_best_of_a_metric_that_grows_is_the_largest(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from lina_lab.config.metrics import METRICS

    entries = {**METRICS, "val/loss_ema": replace(METRICS["val/loss_ema"], direction="maximize")}
    monkeypatch.setattr("lina_lab.training.checkpoints.METRICS", entries)
    run(tiny(trainer=LONG, checkpoint={"keep_best": "val/loss_ema", "keep_last": 1}), tmp_path)
    saved = {step: torch.load(path)["callbacks"]["Checkpoints"] for step, path in checkpoint_files(tmp_path).items()}
    best = saved[10]["best"]
    assert best["value"] == saved[best["step"]]["metrics"]["val/loss_ema"]
    assert best["step"] == 3


def test_a_newer_checkpoint_that_is_damaged_takes_no_place_of_a_whole_one(tiny: Tiny, tmp_path: Path) -> None:
    config, requests = tiny(trainer=LONG, checkpoint={"keep_last": 1}), StopSignals()
    with pytest.raises(KilledError):
        run(tiny(trainer=LONG), tmp_path, kill_at=7)
    (tmp_path / "step-00000006.ckpt").write_bytes(b"half of it")

    def report(progress: Progress) -> None:
        requests.leave = progress.images == 64

    left = run(config, tmp_path, report=report, requests=requests)
    assert (left.resumed_at, left.steps) == (3, 5)
    found, _ = newest(tmp_path)
    assert found is not None
    assert found.step == 5


class Slow:
    """Holds every write until it is released, and counts how many are under way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.released, self.running, self.most, self.threads = threading.Event(), 0, 0, set[str]()
        original = files_module.sha256

        def slow(path: Path) -> str:
            self.running += 1
            self.most = max(self.most, self.running)
            self.threads.add(threading.current_thread().name)
            self.released.wait(20)
            self.running -= 1
            return original(path)

        monkeypatch.setattr(files_module, "sha256", slow)


def test_training_goes_on_while_a_checkpoint_is_written_and_the_checkpoint_is_of_its_step(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"trainer": LONG}
    run(tiny(**changes, checkpoint={"keep_last": 99}), tmp_path / "whole")
    slow, seen = Slow(monkeypatch), list[int]()

    def report(progress: Progress) -> None:
        seen.append(progress.images)
        if seen.count(96) == 1 and progress.images == 96:  # three steps after the checkpoint at 48
            assert list(checkpoint_files(tmp_path / "late")) == []
            slow.released.set()

    run(tiny(**changes, checkpoint={"keep_last": 99, "asynchronous": True}), tmp_path / "late", report=report)
    assert slow.most == 1
    assert all(name.startswith("checkpoint") for name in slow.threads)
    one, other = (checkpoint_files(tmp_path / name) for name in ("whole", "late"))
    assert list(one) == list(other) == [3, 6, 9, 10]
    for step in one:
        assert is_whole(other[step])
        states = [torch.load(files[step], weights_only=True) for files in (one, other)]
        for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "loops"):
            assert_same_state(states[0][part], states[1][part], f"{step} {part}")


def test_a_process_that_is_asked_to_leave_waits_for_the_write(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, requests = Slow(monkeypatch), StopSignals(leave=True)
    threading.Timer(1.0, slow.released.set).start()
    begun = time.monotonic()
    result = run(tiny(checkpoint={"asynchronous": True}), tmp_path, requests=requests)
    assert time.monotonic() - begun >= 1.0
    assert (result.status, result.steps) == ("preempted", 1)
    assert newest(tmp_path)[0] is not None


def test_a_process_that_is_terminated_waits_for_the_write(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)

    def report(progress: Progress) -> None:
        if progress.images == 64:
            threading.Timer(0.5, slow.released.set).start()
            raise SystemExit(143)

    with pytest.raises(SystemExit):
        run(tiny(trainer=LONG, checkpoint={"asynchronous": True}), tmp_path, report=report)
    assert list(checkpoint_files(tmp_path)) == [3]
    assert newest(tmp_path)[0] is not None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


@pytest.mark.parametrize("failing", [3, 10])
def test_a_write_that_fails_beside_training_is_said_at_the_next_one_or_at_the_end(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    config, write, seen = tiny(trainer=LONG, checkpoint={"asynchronous": True}), CheckpointFiles._write, list[int]()

    def full(files: CheckpointFiles, checkpoint: dict[str, Any], path: Path) -> None:
        if checkpoint["global_step"] == failing:
            raise OSError(28, "No space left on device", str(path))
        write(files, checkpoint, path)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointFiles, "_write", full)
        with pytest.raises(OSError, match="No space left"):
            run(config, tmp_path, report=lambda progress: seen.append(progress.images))
    assert max(seen) == (96 if failing == 3 else 160)
    assert run(config, tmp_path).resumed_at == (None if failing == 3 else 9)


def test_the_policy_may_change_while_a_trial_goes_on(tiny: Tiny, tmp_path: Path) -> None:
    whole = run(tiny(trainer=LONG), tmp_path / "whole")
    policies: list[dict[str, Any]] = [{"keep_last": 1}, {"every_images": 16, "asynchronous": True}]
    for policy, kill_at in zip(policies, (4, 8), strict=True):
        with pytest.raises(KilledError):
            run(tiny(trainer=LONG, checkpoint=policy), tmp_path / "changed", kill_at=kill_at)
    changed = run(tiny(trainer=LONG, checkpoint={"keep_best": "val/loss_ema"}), tmp_path / "changed")
    assert (changed.resumed_at, changed.metrics) == (7, whole.metrics)
