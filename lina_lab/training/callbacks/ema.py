"""The exponential moving average of the weights."""

from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lina_lab.config import EmaConfig
from lina_lab.training.module import LinaModule
from lina_lab.util.compat.lightning import averaged_model, averaged_module, swap_models


class ExponentialAverage(WeightAveraging):
    """An EMA by Lightning's averaging, with validation on the raw weights first and on the averaged ones second.

    Lightning's own callback validates the averaged weights only. Here they are swapped in when the second validation
    loader starts.

    Args:
        config: decay, and steps between two updates.
    """

    state_key = "ExponentialAverage"
    """One for all subclasses: a trial resumes under any strategy."""

    def __init__(self, config: EmaConfig) -> None:
        # The buffers are constants (positions): to average them would only add rounding. Not Lightning's own
        # EMAWeightAveraging, which goes through the parameters one by one: a tenth of a small model's step.
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(config.decay))  # type: ignore[no-untyped-call]
        self.every_n_steps = config.every_n_steps

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        cast(LinaModule, pl_module).averages = stage == "fit"
        self._begin(cast(LinaModule, pl_module))

    def _begin(self, module: LinaModule) -> None:
        """Have the first update count the weights that training starts from, unless they are drawn."""
        if module.inherited is not None:
            averaged_model(self).n_averaged.fill_(1)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """After every `every_n_steps` steps, counted from the first one."""
        return step_idx is not None and step_idx % self.every_n_steps == 0

    def averaged(self) -> LinaModule:
        """The module with the averaged weights."""
        return cast(LinaModule, averaged_module(self))

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the raw weights in place."""

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if dataloader_idx == 1 and batch_idx == 0 and cast(LinaModule, pl_module).averages:
            swap_models(self, pl_module)
