"""What happens beside the training step."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lina_lab.config import EmaConfig
from lina_lab.util.compat.lightning import averaged_module, swap_models


class ExponentialAverage(WeightAveraging):
    """An EMA by Lightning's averaging, with validation on the raw weights first and on the averaged ones second.

    Lightning's own callback validates the averaged weights only. Here they are swapped in when the second validation
    loader starts.
    """

    def __init__(self, config: EmaConfig) -> None:
        # The buffers are constants (positions): to average them would only add rounding. Not Lightning's own
        # EMAWeightAveraging, which goes through the parameters one by one: a tenth of a small model's step.
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(config.decay))  # type: ignore[no-untyped-call]
        self.every_n_steps = config.every_n_steps

    @property
    def state_key(self) -> str:
        """One for all subclasses: a checkpoint goes on under any strategy."""
        return "ExponentialAverage"

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Behind every so many steps, the first one included."""
        return step_idx is not None and step_idx % self.every_n_steps == 0

    def averaged(self) -> L.LightningModule:
        """The module with the averaged weights."""
        return averaged_module(self)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the raw weights in place."""

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if dataloader_idx == 1 and batch_idx == 0:
            swap_models(self, pl_module)


class Stopwatch(Callback):
    """Seconds of training, with and without validation, over all the times that the trial was taken up."""

    def __init__(self) -> None:
        self.training = self.validating = 0.0
        self._since = self._validating_since = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validating_since = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validating += time.perf_counter() - self._validating_since

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.lap()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.lap()

    @property
    def so_far(self) -> float:
        """Seconds of training until now, without validation."""
        return self.training + time.perf_counter() - self._since - self.validating

    def lap(self) -> None:
        """Count what has passed since the last lap."""
        now = time.perf_counter()
        self.training, self._since = self.training + now - self._since, now

    def state_dict(self) -> dict[str, Any]:
        return {"training": self.training, "validating": self.validating}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.training, self.validating = state_dict["training"], state_dict["validating"]
