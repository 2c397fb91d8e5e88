"""Lightning callbacks and loggers that a trial names, of other packages and built in."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint, Timer
from lightning.pytorch.loggers.logger import Logger
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lina_lab.config import CommandConfig, StudyConfig, TrialConfig, from_dict, to_dict
from lina_lab.config.extras import CALLBACKS, LOGGERS, CallbackEntry, LoggerEntry, missing_package
from lina_lab.records.runstore import TrackingRun
from lina_lab.study.grid import make_plan
from lina_lab.study.preflight import problems
from lina_lab.training.extras import make_loggers
from lina_lab.training.trial import run_trial
from tests.conftest import STUDY
from tests.training.test_resume import LONG, KilledError, run

Tiny = Callable[..., TrialConfig]


class Counted(Callback):
    """Counts steps, over interruptions."""

    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps = state_dict["steps"]


class Halved(Callback):
    """Halves the gradients, which AdamW hardly feels, and the weights, which it does."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for parameter in pl_module.parameters():
            parameter.data.mul_(0.5)


class Kept(Logger):
    """Keeps what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[str, int, float]] = []

    name, version = "kept", 0  # type: ignore[assignment]

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.points += [(name, step or 0, float(value)) for name, value in metrics.items() if name != "epoch"]

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        self.hyperparameters = args


def offer_callback(monkeypatch: pytest.MonkeyPatch, *made: Callback) -> list[Callback]:
    """Enter `own`, which makes these one after the other."""
    waiting = list(made)
    entry = CallbackEntry(name="own", documentation="", maker=lambda config, folder: waiting.pop(0))
    monkeypatch.setitem(CALLBACKS.builtin, "own", entry)
    return waiting


def test_a_callback_is_called_and_its_state_is_in_the_checkpoint(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = Counted(), Counted()
    offer_callback(monkeypatch, before, after)
    config = tiny(trainer={**LONG, "callbacks": ["own"]})
    with pytest.raises(KilledError):
        run(config, tmp_path / "x", kill_at=8)
    # It comes before the one that reports the step, and is killed by the report.
    assert before.steps == 8
    result = run(config, tmp_path / "x")
    assert (result.resumed_at, after.steps) == (6, 10)


def test_a_callback_is_part_of_the_identity_and_a_logger_is_not(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_callback(monkeypatch)
    plain = tiny().config_hash()
    assert tiny(trainer={"callbacks": ["own"]}).config_hash() != plain
    logged = tiny(trainer={"loggers": ["tensorboard"]})
    assert logged.config_hash() == logged.config_hash({"trainer.loggers": ["x"]}) == plain
    assert to_dict(logged)["trainer"]["loggers"] == ["tensorboard"]


def test_a_callback_may_change_what_is_trained(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_callback(monkeypatch, Halved())
    plain = run(tiny(), tmp_path / "plain")
    changed = run(tiny(trainer={"callbacks": ["own"]}), tmp_path / "changed")
    assert changed.metrics["val/loss_raw"] != plain.metrics["val/loss_raw"]


@pytest.mark.parametrize(
    ("callback", "sentence"),
    [
        (EMAWeightAveraging(), "own is a EMAWeightAveraging and averages the weights, which ema configures"),
        (ModelCheckpoint(), "own is a ModelCheckpoint and writes checkpoints, which checkpoint configures"),
        (EarlyStopping("train/loss"), "own is a EarlyStopping and ends training before its budget"),
        (3, "own is no Lightning callback, but 3"),
    ],
    ids=["average", "checkpoint", "stopping", "none"],
)
def test_a_callback_that_does_what_the_harness_does_is_refused(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, callback: Any, sentence: str
) -> None:
    offer_callback(monkeypatch, callback)
    with pytest.raises(ValueError, match=rf"^trainer.callbacks: {sentence}") as refused:
        run_trial(tiny(trainer={"callbacks": ["own"]}), tmp_path)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore")  # Lightning says that time is up
def test_a_training_that_a_callback_ends_is_not_taken_for_whole(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_callback(monkeypatch, Timer(duration={"seconds": 0}))
    with pytest.raises(
        ValueError, match=r"^training ended at step \d of 10: one of trainer.callbacks=\['own'\] stopped"
    ):
        run_trial(tiny(trainer={**LONG, "callbacks": ["own"]}), tmp_path)


@pytest.mark.parametrize(
    ("trainer", "sentence"),
    [
        ({"callbacks": ["x"]}, r"^trainer: callbacks: x is not one of an installed package \(there are none\)$"),
        ({"loggers": ["x"]}, r"^trainer: loggers: x is not one of tensorboard, wandb$"),
        ({"loggers": ["wandb", "wandb"]}, r"^trainer: loggers: \['wandb', 'wandb'\] names wandb twice$"),
    ],
)
def test_a_name_that_does_not_exist_is_refused(tiny: Tiny, trainer: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        tiny(trainer=trainer)


def test_a_package_that_is_missing_is_said_before_training(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    for name in ("tensorboard", "wandb"):
        monkeypatch.setattr(
            "lina_lab.config.extras.find_spec",
            lambda module: None if module in ("tensorboard", "tensorboardX", "wandb") else found(module),
        )
        with pytest.raises(
            ValueError, match=rf"^trainer.loggers: {name} needs the package {name}: pip install {name}$"
        ):
            run_trial(tiny(trainer={"loggers": [name]}), tmp_path)
        assert not list(tmp_path.iterdir())
        plan = make_plan(from_dict(StudyConfig, {**STUDY, "name": "x"}), to_dict(tiny(trainer={"loggers": [name]})))
        assert f"trainer.loggers: {name} needs the package {name}: pip install {name}" in problems(
            plan, CommandConfig()
        )
    monkeypatch.setattr("lina_lab.config.extras.find_spec", lambda module: module == "tensorboardX" or None)
    assert missing_package(tiny(trainer={"loggers": ["tensorboard"]})) is None
    assert missing_package(tiny()) is None


def test_a_logger_gets_what_mlflow_gets_and_changes_no_number(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept()
    monkeypatch.setitem(LOGGERS.builtin, "kept", LoggerEntry(name="kept", documentation="", maker=lambda *_: kept))
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    tracking = TrackingRun(uri=uri, run_id=client.create_run(client.create_experiment("one")).info.run_id)
    result = run(tiny(trainer={**LONG, "loggers": ["kept"]}), tmp_path / "logged", tracking=tracking)
    assert result.metrics == run(tiny(trainer=LONG), tmp_path / "plain").metrics
    names = {name for name, *_ in kept.points}
    assert {"train/loss", "val/loss_raw", "val/loss_ema", "watch/lr", "watch/loss_spikes"} <= names
    for name in names:
        mine = [(step, value) for own, step, value in kept.points if own == name]
        assert [(p.step, p.value) for p in client.get_metric_history(tracking.run_id, name)] == mine
    # Without MLflow as well.
    kept.points.clear()
    run(tiny(trainer={**LONG, "loggers": ["kept"]}), tmp_path / "alone")
    assert {name for name, *_ in kept.points} == names


@pytest.mark.parametrize("made", [3, Callback()], ids=["number", "callback"])
def test_what_is_no_logger_is_refused(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Any) -> None:
    monkeypatch.setitem(LOGGERS.builtin, "kept", LoggerEntry(name="kept", documentation="", maker=lambda *_: made))
    with pytest.raises(ValueError, match=r"^trainer.loggers: kept is no Lightning logger, but "):
        make_loggers(tiny(trainer={"loggers": ["kept"]}), tmp_path)


def test_tensorboard_gets_the_curves(tiny: Tiny, tmp_path: Path) -> None:
    run(tiny(trainer={**LONG, "loggers": ["tensorboard"]}), tmp_path / "x")
    events = EventAccumulator(str(tmp_path / "x/tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [16 * n for n in range(10)]
    assert {"val/loss_ema", "watch/lr"} <= set(events.Tags()["scalars"])


def test_weights_and_biases_gets_a_run_offline(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    run(tiny(trainer={**LONG, "loggers": ["wandb"]}), tmp_path / "x")
    assert list((tmp_path / "x/wandb").glob("offline-run-*/run-*.wandb"))
