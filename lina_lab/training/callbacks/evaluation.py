"""The base of callbacks that measure generated images during training: when they do, and where the numbers go."""

from abc import ABC, abstractmethod

import lightning as L
from lightning.pytorch.callbacks import Callback

from lina_lab.config import TrialConfig
from lina_lab.data.modules.base import StepDataModule
from lina_lab.model import LINA
from lina_lab.training.callbacks.ema import ExponentialAverage
from lina_lab.training.module import LinaModule
from lina_lab.training.work_partition import WorkPartition


class Evaluation(Callback, ABC):
    """Measures the averaged weights at the end, and as often as `sampling.quality_every_images` says.

    Its time counts as validation, not as training.

    Args:
        config: the trial.
        average: holds the averaged weights. It comes before this callback in the trainer's list, so that its weights
            are swapped back already.
    """

    def __init__(self, config: TrialConfig, average: ExponentialAverage) -> None:
        self.config, self.average = config, average
        self.seen = 0
        """Images seen at the last measurement."""

    @abstractmethod
    def measure(self, model: LINA, data: StepDataModule, partition: WorkPartition) -> dict[str, float]:
        """Metric -> value, the same on all ranks."""

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, LinaModule)
        seen, every = pl_module.images_seen, self.config.sampling.quality_every_images
        last = trainer.global_step >= self.config.max_steps
        if not last and (every is None or seen // every == self.seen // every):
            return
        self.seen = seen
        module = self.average.averaged()
        module.eval()
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, StepDataModule)
        pl_module.log_over_images(self.measure(module.model, data, WorkPartition.of(pl_module)), seen)

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.seen = state_dict["seen"]
