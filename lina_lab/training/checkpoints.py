"""The state of training on disk: written whole or not at all, and looked over before it is used."""

import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from lina_lab.records.files import CHECKPOINTS
from lina_lab.training.mlflow_buffer import Point
from lina_lab.training.mlflow_logger import BufferedMLflowLogger
from lina_lab.util.files import sha256, write_atomically

PATTERN = f"{CHECKPOINTS}.ckpt"
DIGEST = ".sha256"


class Checkpoints(Checkpoint):
    """Writes a checkpoint behind each validation, and whenever asked, and keeps the newest few.

    Beside Lightning's state (weights, raw and averaged, optimizer, schedule, loops, callbacks) it holds the global
    random state, the metrics of the last validation, and those that a tracking server has not taken yet.

    Args:
        folder: where to.
        stream: what metrics wait in; those that a checkpoint holds are given back to it.
    """

    KEEP = 2
    """One more than one, so that a damaged one does not cost everything."""

    def __init__(self, folder: Path, stream: BufferedMLflowLogger | None) -> None:
        self.folder, self.stream = folder, stream
        self.metrics: dict[str, float] = {}
        self._random: torch.Tensor | None = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Write the state of training. All ranks call it together; the first one writes."""
        self.metrics |= {name: float(value) for name, value in trainer.logged_metrics.items() if name != "step"}
        path = self.folder / f"step-{trainer.global_step:08d}.ckpt"
        part = path.with_suffix(".part")
        try:
            trainer.save_checkpoint(part)
        except BaseException:
            # Half a checkpoint is of no use, and takes the space that the disk may lack.
            if trainer.is_global_zero:
                part.unlink(missing_ok=True)
            raise
        if trainer.is_global_zero:
            _seal(part, path)
            for old in sorted(self.folder.glob(PATTERN))[: -self.KEEP]:
                old.unlink()
                _digest_file(old).unlink(missing_ok=True)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._random is not None:
            torch.set_rng_state(self._random)
            self._random = None

    def state_dict(self) -> dict[str, Any]:
        waiting: list[Point] = [] if self.stream is None else list(self.stream.waiting)
        return {"metrics": self.metrics, "waiting": waiting, "random": torch.get_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.metrics, self._random = state_dict["metrics"], state_dict["random"]
        if self.stream is not None:
            # Here, for a checkpoint of the last step leads to no other hook.
            self.stream.resume((str(name), value, step, now) for name, value, step, now in state_dict["waiting"])


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint, and a sentence for each that is newer and damaged."""
    problems: list[str] = []
    for path in sorted(folder.glob(PATTERN), reverse=True):
        digest = _digest_file(path)
        if digest.exists() and digest.read_text().strip() == sha256(path):
            return path, problems
        problems.append(f"{path.name} is damaged: its contents are not what was written")
    return None, problems


def _seal(part: Path, path: Path) -> None:
    """Give a finished file its name, once it and its digest are safely on disk."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    write_atomically(_digest_file(path), sha256(part) + "\n")
    part.replace(path)


def _digest_file(path: Path) -> Path:
    return path.with_name(path.name + DIGEST)
