"""An interrupted trial resumes: exactly, with no step of its curve twice or missing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from lina_lab.config import TrialConfig
from lina_lab.records.result import Progress, TrialResult
from lina_lab.records.runstore import TrackingRun
from lina_lab.training.checkpoints import newest
from lina_lab.training.mlflow_buffer import deliver_unsent
from lina_lab.training.mlflow_logger import BufferedMLflowLogger
from lina_lab.training.trial import run_trial

Tiny = Callable[..., TrialConfig]
LONG = {"max_images": 160, "val_every_images": 48, "divergence_steps": 5}
"""Ten steps, a checkpoint after each third one and the last."""


class KilledError(RuntimeError):
    """Ends a trial as nothing in it expects."""


def run(
    config: TrialConfig, folder: Path, *, kill_at: int | None = None, tracking: TrackingRun | None = None
) -> TrialResult:
    folder.mkdir(exist_ok=True)

    def report(progress: Progress) -> None:
        if kill_at is not None and progress.images == 16 * kill_at:
            raise KilledError

    return run_trial(config, folder, report=report, tracking=tracking)


def final(folder: Path) -> dict[str, object]:
    found, problems = newest(folder)
    assert found is not None
    assert problems == []
    return torch.load(found.path, weights_only=True)  # type: ignore[no-any-return]


def assert_same_state(one: object, other: object, where: str = "") -> None:
    if isinstance(one, dict):
        assert isinstance(other, dict)
        assert one.keys() == other.keys(), where
        for name in one:
            # Clocks differ, and Lightning notes how often it was started.
            if name not in ("Stopwatch", "waiting"):
                assert_same_state(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where  # type: ignore[arg-type]
        for i, pair in enumerate(zip(one, other, strict=True)):  # type: ignore[call-overload]
            assert_same_state(*pair, where=f"{where}[{i}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where  # type: ignore[arg-type]
    else:
        assert one == other, where


@pytest.fixture
def tracked(tmp_path: Path) -> Callable[[], TrackingRun]:
    """Makes runs in one MLflow store."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("one")
    return lambda: TrackingRun(uri=uri, run_id=client.create_run(experiment).info.run_id)


def curve(tracking: TrackingRun, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in MlflowClient(tracking.uri).get_metric_history(tracking.run_id, name)]


@pytest.mark.parametrize("kills", [[2], [4], [3, 7], [5, 5, 9], [10]], ids=str)
def test_interrupted_and_resumed_equals_uninterrupted(
    tiny: Tiny, tmp_path: Path, tracked: Callable[[], TrackingRun], kills: list[int]
) -> None:
    """Weights, averages, optimizer, schedule, result and curves, bit for bit, wherever it was killed."""
    config = tiny(trainer=LONG, optimizer={"warmup_images": 100})
    whole_run, broken_run = tracked(), tracked()
    whole = run(config, tmp_path / "whole", tracking=whole_run)
    for step in kills:
        with pytest.raises(KilledError):
            run(config, tmp_path / "broken", kill_at=step, tracking=broken_run)
    broken = run(config, tmp_path / "broken", tracking=broken_run)
    assert broken.metrics == whole.metrics
    assert (broken.steps, broken.images_seen, broken.status) == (10, 160, "done")
    assert broken.resumed_at == {2: None, 4: 3, 7: 6, 9: 6, 10: 9}[kills[-1]]
    for name in ("train/loss", "val/loss_ema", "val/loss_raw"):
        assert curve(broken_run, name) == curve(whole_run, name)
    assert len(curve(whole_run, "train/loss")) == 10
    states = [final(tmp_path / name) for name in ("whole", "broken")]
    for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert_same_state(states[0][part], states[1][part], part)


def test_a_finished_trial_that_was_not_recorded_gives_the_same_result(tiny: Tiny, tmp_path: Path) -> None:
    first = run(tiny(), tmp_path / "trial")
    (tmp_path / "trial" / "samples.png").unlink()
    again = run(tiny(), tmp_path / "trial")
    assert again.resumed_at == 4
    clocks = dict.fromkeys(("fit_seconds", "peak_memory_mib", "images_per_second", "step_seconds", "data_seconds"), 0.0)
    assert replace(again, resumed_at=None, **clocks) == replace(first, **clocks)
    assert again.images_per_second == pytest.approx(first.images_per_second, rel=0.5)
    assert (tmp_path / "trial" / "samples.png").exists()


def test_the_newest_checkpoints_are_kept(tiny: Tiny, tmp_path: Path) -> None:
    run(tiny(trainer=LONG), tmp_path / "trial")
    kept = sorted(path.name for path in (tmp_path / "trial").glob("step-*"))
    steps = ("step-00000009.ckpt", "step-00000010.ckpt")
    assert kept == sorted([*steps, *(f"{name}.sha256" for name in steps)])


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no digest"])
def test_a_damaged_checkpoint_is_skipped(tiny: Tiny, tmp_path: Path, damage: str) -> None:
    config = tiny(trainer=LONG)
    whole = run(config, tmp_path / "whole")
    with pytest.raises(KilledError):
        run(config, tmp_path / "trial", kill_at=8)
    path = tmp_path / "trial" / "step-00000006.ckpt"
    contents = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(contents[:-100])
    elif damage == "flipped":
        contents[len(contents) // 2] ^= 1
        path.write_bytes(contents)
    else:
        path.with_name(path.name + ".sha256").unlink()
    result = run(config, tmp_path / "trial")
    assert result.resumed_at == 3
    assert result.problems == ("step-00000006.ckpt is damaged: its contents are not what was written",)
    assert result.metrics == whole.metrics


def test_a_checkpoint_that_could_not_be_written_leaves_the_one_before(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lina_lab.util.compat.torch import save_file

    def full(state: dict[str, Any], path: Path) -> None:
        if state["global_step"] == 6:
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device", str(path))
        save_file(state, path)

    config = tiny(trainer=LONG)
    with monkeypatch.context() as patch:
        patch.setattr("lina_lab.training.checkpoint_files.save_file", full)
        with pytest.raises(OSError, match="No space left"):
            run(config, tmp_path / "trial")
    assert not list((tmp_path / "trial").glob("*.draft"))
    assert run(config, tmp_path / "trial").resumed_at == 3


class Away:
    """Makes MLflow's client fail as if the server were away, from one call of `log_batch` to another."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first: int, last: float) -> None:
        self.calls, original = 0, MlflowClient.log_batch

        def log_batch(client: MlflowClient, *args: object, **kwargs: object) -> None:
            self.calls += 1
            if first <= self.calls <= last:
                raise MlflowException("API request failed")
            original(client, *args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
        monkeypatch.setattr("lina_lab.training.mlflow_logger.EVERY_SECONDS", 0.0)
        monkeypatch.setattr("lina_lab.training.mlflow_logger.PAUSE_SECONDS", 0.0)


def test_training_continues_while_the_store_is_away(
    tiny: Tiny, tmp_path: Path, tracked: Callable[[], TrackingRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking, undisturbed = tracked(), tracked()
    run(tiny(trainer=LONG), tmp_path / "other", tracking=undisturbed)
    away = Away(monkeypatch, 3, 8)
    result = run(tiny(trainer=LONG), tmp_path / "trial", tracking=tracking)
    assert away.calls > 8
    assert curve(tracking, "train/loss") == curve(undisturbed, "train/loss")
    assert any("did not take metrics: API request failed" in problem for problem in result.problems)


@pytest.mark.parametrize("kill_at", [None, 8])
def test_metrics_reach_the_store_when_it_is_back(
    tiny: Tiny,
    tmp_path: Path,
    tracked: Callable[[], TrackingRun],
    monkeypatch: pytest.MonkeyPatch,
    kill_at: int | None,
) -> None:
    """Also through a file and through a checkpoint: the store is away until the trial has ended, or was killed."""
    config, tracking, undisturbed = tiny(trainer=LONG), tracked(), tracked()
    run(config, tmp_path / "other", tracking=undisturbed)
    with monkeypatch.context() as patch:
        Away(patch, 3, float("inf"))
        if kill_at is None:
            run(config, tmp_path / "trial", tracking=tracking)
        else:
            with pytest.raises(KilledError):
                run(config, tmp_path / "trial", kill_at=kill_at, tracking=tracking)
    assert len(curve(tracking, "train/loss")) < 8
    if kill_at is not None:
        (tmp_path / "trial" / "unsent.jsonl").unlink()  # a killed process writes none
        run(config, tmp_path / "trial", tracking=tracking)
    else:
        deliver_unsent(MlflowClient(tracking.uri), tracking.run_id, tmp_path / "trial")
        deliver_unsent(MlflowClient(tracking.uri), tracking.run_id, tmp_path / "trial")
    for name in ("train/loss", "val/loss_ema"):
        assert curve(tracking, name) == curve(undisturbed, name)


def test_a_trial_that_is_killed_after_its_last_checkpoint_loses_no_metric(
    tiny: Tiny, tmp_path: Path, tracked: Callable[[], TrackingRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left to train, and what waits in the checkpoint reaches the store."""
    config, tracking, undisturbed = tiny(trainer=LONG), tracked(), tracked()
    run(config, tmp_path / "other", tracking=undisturbed)
    with monkeypatch.context() as patch:
        patch.setattr(BufferedMLflowLogger, "flush", lambda self: None)
        run(config, tmp_path / "trial", tracking=tracking)
    (tmp_path / "trial" / "unsent.jsonl").unlink()  # a killed process writes none
    assert curve(tracking, "train/loss") == []
    run(config, tmp_path / "trial", tracking=tracking)
    for name in ("train/loss", "val/loss_ema"):
        assert curve(tracking, name) == curve(undisturbed, name)
