"""Clocks of a trial: training and validation, a step and its waiting for data, and communication."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Timer
from lightning.pytorch.profilers import SimpleProfiler

from lina_lab.util.compat.lightning import FETCH, TRAIN
from lina_lab.util.compat.torch import ddp_logging_data


class TrialTimer(Timer):
    """Lightning's Timer over all attempts at a trial, with the time of all validations apart.

    What a checkpoint holds has the form of version 0.1, so that a trial's speed is measured across versions.
    """

    def __init__(self) -> None:
        super().__init__(verbose=False)
        self.training = self.validating = 0.0
        """Seconds of training until the last lap, validations included; and of the validations."""

    state_key = "Stopwatch"
    """Its name in checkpoints, since version 0.1."""

    @property
    def so_far(self) -> float:
        """Seconds of training until now, without validation."""
        return self.time_elapsed("train") - self.validating

    def lap(self) -> None:
        """Count what has passed: at the end of an epoch, before a checkpoint, and when training ends by an error."""
        self.training = self.time_elapsed("train")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        self.validating += self.time_elapsed("validate")

    def on_train_epoch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        super().on_train_epoch_end(trainer, *args, **kwargs)
        self.lap()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.lap()

    def state_dict(self) -> dict[str, Any]:
        return {"training": self.training, "validating": self.validating}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.training, self.validating = state_dict["training"], state_dict["validating"]
        super().load_state_dict({"time_elapsed": {"train": self.training}})


class StepProfiler(SimpleProfiler):
    """Mean seconds of a micro-batch, and of waiting for its data. The first ones, which set things up, are left out.

    Lightning's SimpleProfiler keeps every duration of every action. Here sums take their place: a long run needs no
    more memory than a short one.
    """

    WARM_UP = 3

    def __init__(self) -> None:
        super().__init__()
        self._counts = {FETCH: -self.WARM_UP, TRAIN: -self.WARM_UP}
        self._seconds = {FETCH: 0.0, TRAIN: 0.0}

    def stop(self, action_name: str) -> None:
        super().stop(action_name)
        (seconds,) = self.recorded_durations.pop(action_name)
        if action_name in self._counts:
            self._counts[action_name] += 1
            self._seconds[action_name] += seconds if self._counts[action_name] > 0 else 0.0

    @property
    def data_seconds(self) -> float:
        """Seconds of waiting for data."""
        return self._mean(FETCH)

    @property
    def step_seconds(self) -> float:
        """Seconds of a micro-batch, waiting for its data included."""
        return self.data_seconds + self._mean(TRAIN)

    def summary(self) -> str:
        """Nothing: the numbers are in the trial's result."""
        return ""

    def _mean(self, action_name: str) -> float:
        return self._seconds[action_name] / max(self._counts[action_name], 1)


class CommunicationClock(Callback):
    """Keeps what PyTorch's DDP measures of itself: on the first ten steps, and on every hundredth one."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        """Mean time of a step that the gradients' reduction takes beyond the backward pass; None: not measured."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        model = trainer.strategy.model
        if isinstance(model, torch.nn.parallel.DistributedDataParallel):
            measured = ddp_logging_data(model)
            spent, hidden = (
                float(measured.get(f"avg_backward_{name}_time", 0)) / 1e9 for name in ("comm", "compute_comm_overlap")
            )
            self.seconds = max(0.0, spent - hidden)
