"""Checkpoints on disk: written whole or not at all, and verified before they are used."""

import re
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from lina_lab.records.curve import Point
from lina_lab.records.files import CHECKPOINTS, CHECKPOINTS_KEPT
from lina_lab.records.weights import digest_file, written_hash
from lina_lab.training.mlflow_logger import BufferedMLflowLogger
from lina_lab.util.files import atomic, sha256, write_atomically

PATTERN = f"{CHECKPOINTS}.ckpt"


@dataclass(frozen=True)
class SavedStep:
    """A whole checkpoint."""

    path: Path
    step: int
    """Optimizer steps taken."""


class Checkpoints(Checkpoint):
    """Writes a checkpoint after each validation, and whenever asked, and keeps the newest few.

    Beside Lightning's state (weights, raw and averaged, optimizer, schedule, loops, callbacks) it holds the global
    random state, the metrics of the last validation, and those that a tracking server has not taken yet.

    Args:
        folder: where to write them.
        logger: where metrics wait; those that a checkpoint holds are given back to it.
    """

    state_key = "Checkpoints"
    """Its name in checkpoints, since version 0.1."""

    def __init__(self, folder: Path, logger: BufferedMLflowLogger | None) -> None:
        self.folder, self.logger = folder, logger
        self.metrics: dict[str, float] = {}
        self._random: torch.Tensor | None = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Write the state of training. All ranks call it together; the first one writes."""
        self.metrics |= {name: float(value) for name, value in trainer.logged_metrics.items() if name != "step"}
        path = self.folder / f"step-{trainer.global_step:08d}.ckpt"
        with atomic(path) if trainer.is_global_zero else nullcontext(path) as draft:
            trainer.save_checkpoint(draft)
            if trainer.is_global_zero:
                # Before the file has its name: without a digest it would pass for a damaged one.
                write_atomically(digest_file(path), sha256(draft) + "\n")
        if trainer.is_global_zero:
            for old in sorted(self.folder.glob(PATTERN))[:-CHECKPOINTS_KEPT]:
                old.unlink()
                digest_file(old).unlink(missing_ok=True)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._random is not None:
            torch.set_rng_state(self._random)
            self._random = None

    def state_dict(self) -> dict[str, Any]:
        waiting: list[Point] = [] if self.logger is None else self.logger.kept()
        return {"metrics": self.metrics, "waiting": waiting, "random": torch.get_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.metrics, self._random = state_dict["metrics"], state_dict["random"]
        if self.logger is not None:
            # Here, for a checkpoint of the last step leads to no other hook.
            self.logger.resume((str(name), value, step, now) for name, value, step, now in state_dict["waiting"])


def newest(folder: Path) -> tuple[SavedStep | None, list[str]]:
    """The newest whole checkpoint, and a sentence for each newer one that is damaged."""
    problems: list[str] = []
    for path in sorted(folder.glob(PATTERN), reverse=True):
        number = re.fullmatch(r"step-(\d+)\.ckpt", path.name)
        if number is not None and _whole(path):
            return SavedStep(path, int(number[1])), problems
        problems.append(f"{path.name} is damaged: its contents are not what was written")
    return None, problems


def _whole(path: Path) -> bool:
    return written_hash(path) == sha256(path)
