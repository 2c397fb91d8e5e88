"""How far and how fast a trial is, and how well it trains: in its log, in `lina status` and in the tracker."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch.callbacks import Callback

from lina_lab.config import TrialConfig
from lina_lab.model import count
from lina_lab.records.result import LINE_SECONDS, Progress
from lina_lab.records.runstore import IMAGES_PER_SECOND, SPIKES, TRAIN_NORM, TRAIN_RATE, WALL
from lina_lab.training.callbacks.timing import TrialTimer
from lina_lab.training.spikes import Spikes

DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}
"""Precision of `trainer.precision` -> type of its matrix products."""
THINNED = 10
"""Logged losses for each logged learning rate and gradient norm: a point costs the tracker as much as a loss does."""

VALIDATION = "val/"
"""Prefix of the metrics that each validation measures."""


class ProgressMeter(Callback):
    """Measures each step, and logs now and then what costs time.

    To the trial's log once a minute: a line on progress. To the loggers: learning rate and gradient norm at every tenth
    logged loss and at the last step before a validation; images per second, share of peak, memory, time left and the
    number of spikes of the loss at each validation, and with each line in the log. None of these metrics is in the
    trial's result.

    The norm of sharded gradients needs all ranks at once, so they agree on the steps where it is measured: by the
    step's number, and by `due`, which `StepSync` sets, the same on all of them.

    Args:
        config: the trial.
        timer: knows how long it has trained without validation.
        memory: returns the largest memory of this process so far, in MiB.
        tell: called on every rank, once a minute; None: nothing is logged.
    """

    state_key = "ProgressMeter"
    """Its name in checkpoints, for the count of spikes."""

    def __init__(
        self,
        config: TrialConfig,
        timer: TrialTimer,
        memory: Callable[[], float],
        tell: Callable[[Progress], None] | None = None,
    ) -> None:
        self.config, self.timer, self.memory, self.tell = config, timer, memory, tell
        self.due = False
        """Whether the step that runs now is one to measure, and to log when it has ended."""
        self.spikes = Spikes()
        self._latest = Progress(images=0, loss=float("nan"), total_images=config.images_seen)
        self._flops = count.flops_per_image(config.model)
        self._peak: float | None = None
        self._logged = self._started = 0.0
        self._first = 0
        self._metrics: dict[str, float] = {}
        """Last value of each logged metric, at the last validation."""
        self._marks: list[tuple[float, int]] = []
        """Seconds of training and images, at the last two lines or at the start."""
        self._validated = (0.0, 0)
        """Seconds of training and images, at the last validation or at the start."""

    @property
    def wants_line(self) -> bool:
        """Whether a line is due by this rank's clock."""
        return time.monotonic() - self._logged >= LINE_SECONDS

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._started = self._logged = time.monotonic()
        self._first = pl_module.images_seen
        self._marks = [(self.timer.so_far, self._first)]
        self._validated = self._marks[0]
        if pl_module.distillation is not None:
            self._flops = count.flops_per_image(self.config.model, pl_module.distillation.teacher.config)
        device = pl_module.device
        if device.type == "cuda":
            peak = get_available_flops(device, DTYPES[self.config.trainer.precision])
            self._peak = None if peak is None else float(peak) * trainer.world_size

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        self._latest = replace(self._latest, learning_rate=float(optimizer.param_groups[0]["lr"]))
        pl_module.measures_norm = self.due or self._logs(trainer.global_step + 1)

    def _logs(self, step: int) -> bool:
        """Whether the rate and the norm of a step, counted from 1, go to the loggers."""
        every = THINNED * self.config.trainer.log_every_n_steps
        return step % every == 0 or step % self.config.epoch_steps == 0 or step == self.config.max_steps

    def log_step(self, trainer: L.Trainer, step: int, images: int) -> None:
        """Send the rate and the norm of a step to the loggers, and how training stands, if it is one that they get.

        Args:
            trainer: has the loggers.
            step: its number, from 1.
            images: images seen before it, which is where its loss is logged.
        """
        latest = self._latest
        if self._logs(step):
            assert latest.gradient_norm is not None
            log(trainer, {TRAIN_RATE: latest.learning_rate, TRAIN_NORM: latest.gradient_norm}, images)
        if self.due and latest.images_per_second is not None:
            log(trainer, self._standing(latest.images_per_second, latest.memory_mib, latest.images), latest.images)

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        images, trained = pl_module.images_seen, self.timer.so_far
        since, before = self._validated
        self._validated = (trained, images)
        if trainer.state.fn != "fit" or images == before:
            return
        rate = (images - before) / max(trained - since, 1e-9)
        log(trainer, self._standing(rate, self._memory_mib(pl_module.device), images), images)

    def _standing(self, rate: float, memory: float | None, images: int) -> dict[str, float | None]:
        """Metrics of speed, memory, time left and spikes.

        Args:
            rate: images per second.
            memory: the largest so far, in MiB.
            images: images seen.
        """
        return {
            f"{WALL}{IMAGES_PER_SECOND}": rate,
            f"{WALL}share_of_peak": self._share_of_peak(rate),
            f"{WALL}memory_mib": memory,
            f"{WALL}hours_left": self._seconds_left(images) / 3600,
            SPIKES: self.spikes.count,
        }

    def _seconds_left(self, images: int) -> float:
        """Time to the end of the budget after so many images, at the pace of this attempt so far."""
        pace = (time.monotonic() - self._started) / max(images - self._first, 1)
        return pace * (self.config.images_seen - images)

    def _share_of_peak(self, rate: float) -> float | None:
        """FLOP/s at a rate of images per second, as a share of the devices' peak; None: the peak is not known."""
        return None if self._peak is None else rate * self._flops / self._peak

    def step_ended(self, pl_module: Any, step: int, loss: float) -> Progress:
        """The progress after a step; logs it if it is due."""
        images, trained = pl_module.images_seen, self.timer.so_far
        since, before = self._marks[0]
        rate = (images - before) / max(trained - since, 1e-9)
        norm = pl_module.gradient_norm
        self.spikes.update(loss)
        self._latest = replace(
            self._latest,
            images=images,
            loss=loss,
            step=step,
            images_per_second=rate,
            gradient_norm=None if norm is None else float(norm),
            loss_spikes=self.spikes.count,
            share_of_peak=self._share_of_peak(rate),
            seconds_left=self._seconds_left(images),
        )
        if self.due:
            self._latest = replace(self._latest, memory_mib=self._memory_mib(pl_module.device))
            self._logged = time.monotonic()
            self._marks = [*self._marks, (trained, images)][-2:]
            if self.tell is not None:
                self.tell(self._latest)
        return self._latest

    def state_dict(self) -> dict[str, Any]:
        return self.spikes.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.spikes.load_state_dict(state_dict)

    def validated(self, images: int, metrics: Mapping[str, float]) -> Progress:
        """The progress after a validation.

        Args:
            images: images seen.
            metrics: the last value of each logged metric. The loss of the validation is new each time; what is measured
                more rarely is new if it has another value than before.
        """
        new = {n: v for n, v in metrics.items() if n.startswith(VALIDATION) or v != self._metrics.get(n)}
        self._metrics = dict(metrics)
        self._latest = replace(self._latest, validated_images=images, validation=new)
        return self._latest

    def _memory_mib(self, device: torch.device) -> float:
        """Largest memory so far: what torch has allocated on a GPU, or the process' own on the CPU."""
        return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else self.memory()


def log(trainer: L.Trainer, values: Mapping[str, float | None], images: int) -> None:
    """Send values that are known to all loggers now, over images seen. They do not become the trial's metrics."""
    known = {name: float(value) for name, value in values.items() if value is not None}
    for logger in trainer.loggers:
        logger.log_metrics(known, step=images)
