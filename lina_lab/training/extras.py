"""Lightning callbacks and loggers that a trial names, made; their entries are in `lina_lab/config/extras.py`."""

import os
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, WeightAveraging
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from lina_lab.config import TrialConfig
from lina_lab.config.extras import CALLBACKS, LOGGERS

REFUSED: dict[type[Callback], str] = {
    WeightAveraging: "averages the weights, which ema configures",
    Checkpoint: "writes checkpoints, which checkpoint configures",
    EarlyStopping: "ends training before its budget, which only the study may do",
}
"""Class of callbacks that no trial may have beside its own -> why."""


def make_callbacks(config: TrialConfig, folder: Path) -> list[Callback]:
    """The callbacks in `trainer.callbacks`.

    Raises:
        ValueError: one is no callback of Lightning's, or would do what the harness does itself.
    """
    made = []
    for name in config.trainer.callbacks:
        callback = CALLBACKS[name].load()(config, folder)
        if not isinstance(callback, Callback):
            raise ValueError(f"trainer.callbacks: {name} is no Lightning callback, but {callback!r}")
        for kind, reason in REFUSED.items():
            if isinstance(callback, kind):
                raise ValueError(f"trainer.callbacks: {name} is a {type(callback).__name__} and {reason}")
        made.append(callback)
    return made


def check_budget(trainer: L.Trainer, config: TrialConfig) -> None:
    """Refuse to take a training for whole that a callback has ended.

    Raises:
        ValueError: the steps that were taken are fewer than the budget's.
    """
    if trainer.global_step < config.max_steps:
        raise ValueError(
            f"training ended at step {trainer.global_step:,} of {config.max_steps:,}: one of trainer.callbacks="
            f"{list(config.trainer.callbacks)} stopped it, which only the study may do"
        )


def make_loggers(config: TrialConfig, folder: Path) -> list[Logger]:
    """The loggers in `trainer.loggers`.

    Raises:
        ValueError: one is no logger of Lightning's.
    """
    made = []
    for name in config.trainer.loggers:
        logger = LOGGERS[name].load()(config, folder)
        if not isinstance(logger, Logger):
            raise ValueError(f"trainer.loggers: {name} is no Lightning logger, but {logger!r}")
        made.append(logger)
    return made


def tensorboard(config: TrialConfig, folder: Path) -> Logger:
    """Event files in the folder `tensorboard` of the trial's; after an interruption they go on in another file."""
    return TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False)


def wandb(config: TrialConfig, folder: Path) -> Logger:
    """A run of the project WANDB_PROJECT or lina_lab; offline if the environment says nothing."""
    name = f"{folder.parent.name}-{config.config_hash()}"
    return WandbLogger(
        name=name,
        id=name,  # by which an interrupted trial goes on in it
        project=os.environ.get("WANDB_PROJECT", "lina_lab"),
        group=os.environ.get("WANDB_RUN_GROUP", folder.parent.name),
        save_dir=folder,
        offline=not (os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY")),
    )
