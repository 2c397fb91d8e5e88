"""What is measured of the averaged weights' images during training: when, and on what they are logged."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from lina_lab.config import TrialConfig
from lina_lab.data.modules.base import StepDataModule
from lina_lab.evaluation.moments import Moments, merged
from lina_lab.model import LINA
from lina_lab.training.callbacks.ema import ExponentialAverage
from lina_lab.training.module import LinaModule
from lina_lab.util.partition import share

T = TypeVar("T")


@dataclass(frozen=True)
class WorkPartition:
    """The ranks that do a piece of work between them."""

    module: LinaModule | None = None
    """Who knows the ranks; None: this process is alone."""

    @classmethod
    def of(cls, module: LinaModule) -> "WorkPartition":
        """All ranks; or each for itself, where weights are sharded and every image needs all ranks."""
        alone = module.device_mesh is not None or module.trainer.world_size == 1
        return cls(None if alone else module)

    def mine(self, count: int) -> range:
        """This rank's places of so many."""
        if self.module is None:
            return range(count)
        return share(count, self.module.global_rank, self.module.trainer.world_size)

    def together(self, mine: list[T]) -> list[T]:
        """What all ranks have, in the order of their places."""
        if self.module is None:
            return mine
        found: list[Any] = [None] * self.module.trainer.world_size
        torch.distributed.all_gather_object(found, mine)
        return [each for part in found for each in part]

    def moments(self, count: int, portion: int, of: Callable[[range], Moments], width: int) -> Moments:
        """The moments of the features of `count` images, some of them by each rank.

        Args:
            count: images.
            portion: how many at a time.
            of: moments of the images at some places.
            width: numbers of an image's features.
        """
        places = self.mine(count)
        parts = (of(places[i : i + portion]) for i in range(0, len(places), portion))
        nothing = Moments(count=0, mean=np.zeros(width), scatter=np.zeros((width, width)))
        own = merged(parts) if len(places) else nothing
        if self.module is None:
            return own
        tensors = (torch.tensor(own.count), torch.from_numpy(own.mean), torch.from_numpy(own.scatter))
        counts, means, scatters = (cast(torch.Tensor, self.module.all_gather(tensor)).cpu() for tensor in tensors)
        everyone = (
            Moments(count=int(number), mean=mean.numpy(), scatter=scatter.numpy())
            for number, mean, scatter in zip(counts, means, scatters, strict=True)
        )
        return merged(part for part in everyone if part.count)


class Evaluation(Callback, ABC):
    """Measures the averaged weights at the end and where `sampling.quality_every_images` says so.

    What it takes counts as validation, not as training.

    Args:
        config: the trial.
        average: holds the averaged weights; it stands before this callback, so that they are its own again.
    """

    def __init__(self, config: TrialConfig, average: ExponentialAverage) -> None:
        self.config, self.average = config, average
        self.seen = 0
        """Images seen when it was last measured."""

    @abstractmethod
    def measure(self, model: LINA, data: StepDataModule, crew: WorkPartition) -> dict[str, float]:
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
        assert isinstance(module, LinaModule)
        assert isinstance(trainer.datamodule, StepDataModule)  # type: ignore[attr-defined]
        found = self.measure(module.model, trainer.datamodule, WorkPartition.of(pl_module))  # type: ignore[attr-defined]
        pl_module.log_over_images(found, seen)

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.seen = state_dict["seen"]
