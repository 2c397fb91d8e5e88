"""How far and how fast a trial is: what its log says once a minute, and `lina status` at any time."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch.callbacks import Callback
from torch.distributed.tensor import DTensor

from lina_lab.config import TrialConfig
from lina_lab.model import count
from lina_lab.records.result import LINE_SECONDS, Progress
from lina_lab.training.callbacks.timing import TrialTimer

DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}
"""Precision of `trainer.precision` -> type of its matrix products."""


class ProgressMeter(Callback):
    """Measures each step, and once a minute what costs time: the gradients' norm and the memory.

    The norm of sharded gradients needs all ranks at once, so they agree on the steps where it is measured: `due` is set
    by `StepSync`, the same on all of them.

    Args:
        config: the trial.
        timer: knows how long it has trained without validation.
        memory: returns the largest memory of this process so far, in MiB.
        tell: called on every rank, once a minute; None: nothing is logged.
    """

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
        self._latest = Progress(images=0, loss=float("nan"), total_images=config.images_seen)
        self._flops = count.FLOPS_PER_MULTIPLY_ADD * count.training_operations(config.model).total
        self._peak: float | None = None
        self._logged = self._started = 0.0
        self._first = 0
        self._marks: list[tuple[float, int]] = []
        """Seconds of training and images, at the last two lines or at the start."""

    @property
    def wants_line(self) -> bool:
        """Whether a line is due by this rank's clock."""
        return time.monotonic() - self._logged >= LINE_SECONDS

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._started = self._logged = time.monotonic()
        self._first = pl_module.images_seen
        self._marks = [(self.timer.so_far, self._first)]
        device = pl_module.device
        if device.type == "cuda":
            peak = get_available_flops(device, DTYPES[self.config.trainer.precision])
            self._peak = None if peak is None else float(peak) * trainer.world_size

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        rate = float(optimizer.param_groups[0]["lr"])
        norm = gradient_norm(pl_module) if self.due else self._latest.gradient_norm
        self._latest = replace(self._latest, learning_rate=rate, gradient_norm=norm)

    def step_ended(self, pl_module: Any, step: int, loss: float) -> Progress:
        """The progress after a step; logs it if it is due."""
        images, trained = pl_module.images_seen, self.timer.so_far
        since, before = self._marks[0]
        rate = (images - before) / max(trained - since, 1e-9)
        pace = (time.monotonic() - self._started) / max(images - self._first, 1)
        self._latest = replace(
            self._latest,
            images=images,
            loss=loss,
            step=step,
            images_per_second=rate,
            share_of_peak=None if self._peak is None else rate * self._flops / self._peak,
            seconds_left=pace * (self.config.images_seen - images),
        )
        if self.due:
            self._latest = replace(self._latest, memory_mib=self._memory_mib(pl_module.device))
            self._logged = time.monotonic()
            self._marks = [*self._marks, (trained, images)][-2:]
            if self.tell is not None:
                self.tell(self._latest)
        return self._latest

    def _memory_mib(self, device: torch.device) -> float:
        """Largest memory so far: what torch has allocated on a GPU, or the process' own on the CPU."""
        return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else self.memory()


def gradient_norm(module: torch.nn.Module) -> float:
    """Euclidean norm of all gradients of a module; where they are sharded, all ranks call this together."""
    total = torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    return float(total.full_tensor() if isinstance(total, DTensor) else total)
