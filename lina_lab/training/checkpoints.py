"""When a trial saves its state, and the newest state that it can resume from."""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from lina_lab.config import TrialConfig
from lina_lab.config.metrics import METRICS
from lina_lab.records.checkpoints import Best, checkpoint_file, checkpoint_files, is_whole
from lina_lab.records.curve import Point
from lina_lab.training.checkpoint_files import STATE
from lina_lab.training.mlflow_logger import BufferedMLflowLogger


@dataclass(frozen=True)
class SavedStep:
    """A whole checkpoint."""

    path: Path
    step: int
    """Optimizer steps taken."""


class Checkpoints(Checkpoint):
    """Saves the trial's state after each validation or as often as `checkpoint` says, at the end, and whenever asked.

    Beside Lightning's state (weights, raw and averaged, optimizer, schedule, loops, callbacks) it holds the global
    random state, the metrics of the last validation, the best validation, and the metrics that a tracking server has
    not taken yet. `CheckpointFiles` writes it, and decides which checkpoints stay.

    Args:
        config: the trial.
        folder: where to write them.
        logger: where metrics wait; those that a checkpoint holds are given back to it.
    """

    state_key = STATE

    def __init__(self, config: TrialConfig, folder: Path, logger: BufferedMLflowLogger | None) -> None:
        self.config, self.policy, self.folder, self.logger = config, config.checkpoint, folder, logger
        self.metrics: dict[str, float] = {}
        self.best: Best | None = None
        self.due = False
        """An interval ended with the last step before a validation, so that the state is saved after that."""
        self._saved = time.monotonic()
        self._unlogged: list[Point] = []
        self._random: torch.Tensor | None = None

    def wanted(self, step: int) -> bool:
        """Whether an interval has ended with a step, by this rank's clock."""
        images, batch, every = step * self.config.data.batch_size, self.config.data.batch_size, self.policy.every_images
        minutes = self.policy.every_minutes
        return (every is not None and images // every > (images - batch) // every) or (
            minutes is not None and time.monotonic() - self._saved >= 60 * minutes
        )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        improved = self._judge(trainer)
        asked = not self.policy.timed or self.due or improved or trainer.global_step >= self.config.max_steps
        # All ranks measure the same, and still one of them decides: the others would wait for it.
        if trainer.strategy.broadcast(asked, 0):
            self.save(trainer)

    def _judge(self, trainer: L.Trainer) -> bool:
        """Whether the validation is the best so far. What is measured more rarely has its last value, which is not."""
        name = self.policy.keep_best
        if name is None or name not in trainer.logged_metrics:
            return False
        value, sign = float(trainer.logged_metrics[name]), -1 if METRICS[name].direction == "maximize" else 1
        before = self.best.value if self.best is not None and self.best.metric == name else sign * math.inf
        if not sign * value < sign * before:  # also where it is no number
            return False
        self.best = Best(name, value, trainer.global_step)
        return True

    def save(self, trainer: L.Trainer, unlogged: Mapping[str, float] | None = None, images: int = 0) -> None:
        """Save the state of training. All ranks call it together; the first one writes.

        Args:
            trainer: the trial's.
            unlogged: values that the loggers get next, and would not get from a trial that resumes from here.
            images: images seen, over which they are logged.
        """
        now = int(time.time() * 1000)
        self._unlogged = [(name, value, images, now) for name, value in (unlogged or {}).items()]
        self.metrics |= {name: float(value) for name, value in trainer.logged_metrics.items() if name != "step"}
        trainer.save_checkpoint(checkpoint_file(self.folder, trainer.global_step))
        self.due, self._saved = False, time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved = time.monotonic()
        if self._random is not None:
            torch.set_rng_state(self._random)
            self._random = None

    def state_dict(self) -> dict[str, Any]:
        waiting: list[Point] = [] if self.logger is None else self.logger.kept(self._unlogged)
        best = None if self.best is None else asdict(self.best)
        return {"metrics": self.metrics, "waiting": waiting, "random": torch.get_rng_state(), "best": best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.metrics, self._random = state_dict["metrics"], state_dict["random"]
        # Versions before 0.3 judged none.
        self.best = None if state_dict.get("best") is None else Best(**state_dict["best"])
        if self.logger is not None:
            # Here, for a checkpoint of the last step leads to no other hook.
            self.logger.resume((str(name), value, step, now) for name, value, step, now in state_dict["waiting"])


def newest(folder: Path) -> tuple[SavedStep | None, list[str]]:
    """The newest whole checkpoint, and a sentence for each newer one that is damaged."""
    problems: list[str] = []
    for step, path in reversed(checkpoint_files(folder).items()):
        if is_whole(path):
            return SavedStep(path, step), problems
        problems.append(f"{path.name} is damaged: its contents are not what was written")
    return None, problems
