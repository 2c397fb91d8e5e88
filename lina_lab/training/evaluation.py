"""What is measured of the averaged weights' images during training: when, and on what they are logged."""

from abc import abstractmethod
from collections.abc import Callable
from typing import cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from lina_lab.config import TrialConfig
from lina_lab.data.steps import StepDataModule
from lina_lab.evaluation.moments import Moments, merged
from lina_lab.model import LINA
from lina_lab.training.callbacks import ExponentialAverage
from lina_lab.training.module import LinaModule


class Evaluation(Callback):
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
        self._module: LinaModule | None = None

    @abstractmethod
    def measure(self, model: LINA, data: StepDataModule) -> dict[str, float]:
        """Metric -> value, the same on all ranks."""

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, LinaModule)
        seen, every = pl_module.images_seen, self.config.sampling.quality_every_images
        last = trainer.global_step >= self.config.max_steps
        if not last and (every is None or seen // every == self.seen // every):
            return
        self.seen, self._module = seen, pl_module
        module = self.average.averaged()
        module.eval()
        assert isinstance(module, LinaModule)
        assert isinstance(trainer.datamodule, StepDataModule)  # type: ignore[attr-defined]
        pl_module.log_over_images(self.measure(module.model, trainer.datamodule), seen)  # type: ignore[attr-defined]

    def shared(self, images: int, portion: int, moments: Callable[[range], Moments], width: int) -> Moments:
        """The moments of images that the ranks draw between them; sharded weights need all ranks for each image.

        Args:
            images: how many.
            portion: how many at a time.
            moments: of the images at some places, with `width` features.
            width: numbers of an image's features.
        """
        module = self._module
        assert module is not None
        alone = module.device_mesh is not None or module.trainer.world_size == 1
        rank, world = (0, 1) if alone else (module.global_rank, module.trainer.world_size)
        mine = range(images * rank // world, images * (rank + 1) // world)
        parts = [moments(mine[i : i + portion]) for i in range(0, len(mine), portion)]
        own = merged(parts or [Moments(count=0, mean=np.zeros(width), scatter=np.zeros((width, width)))])
        if alone:
            return own
        counts, means, scatters = (
            cast(torch.Tensor, module.all_gather(tensor)).cpu()
            for tensor in (torch.tensor(own.count), torch.from_numpy(own.mean), torch.from_numpy(own.scatter))
        )
        everyone = (
            Moments(count=int(count), mean=mean.numpy(), scatter=scatter.numpy())
            for count, mean, scatter in zip(counts, means, scatters, strict=True)
        )
        return merged(part for part in everyone if part.count)

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.seen = state_dict["seen"]
