"""The end of an optimizer step: all ranks come to the same view of it, and end together if they end."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from lina_lab.config import ResourcesConfig, TrialConfig
from lina_lab.records.files import CANCEL_FILE, PRUNE_FILE
from lina_lab.records.result import Report
from lina_lab.records.runstore import TRAIN_LOSS
from lina_lab.training.callbacks.progress import ProgressMeter, log
from lina_lab.training.callbacks.timing import TrialTimer
from lina_lab.training.checkpoints import Checkpoints
from lina_lab.training.divergence import Divergence
from lina_lab.training.stopping import CancelledError, PreemptedError, PrunedError, StopSignals

LOOK_SECONDS = 1.0
"""Seconds between two looks for the files that end the trial."""


@dataclass(frozen=True)
class Step:
    """An optimizer step, as all ranks see it."""

    number: int
    """Steps taken, this one included."""
    loss: float
    """Mean over the batch of all ranks."""
    terms: dict[str, float]
    """Likewise for what the loss is the sum of, by the names in the curves; empty: it is not a sum."""
    cancel: bool
    prune: bool
    leave: bool
    late: bool = False
    due: bool = False
    """The next step is to be measured and logged, by the first rank's clock."""
    save: bool = False
    """A checkpoint is due."""


class StepSync(Callback):
    """Agrees on each step among the ranks, logs its loss, and ends the trial on all of them at once.

    What one rank alone knows (the files that end it, a signal, the time, its part of the loss) is summed over the ranks
    in one reduction of a few numbers. Ranks act only on the reduced values, so none is left waiting in a collective.

    Args:
        config: the trial.
        folder: the trial's; the files that end it appear there.
        resources: how long the trial may train.
        timer: knows how long it has trained, as the first rank sees it.
        checkpoints: save the state before the ranks leave.
        meter: measures the progress.
        requests: signals that this process has received.
        report: called after each step, and after each validation.

    Raises:
        DivergedError, CancelledError, PrunedError, PreemptedError: after a step, on all ranks.
    """

    state_key = "StepEnd"
    """Its name in checkpoints, since version 0.1."""

    def __init__(
        self,
        config: TrialConfig,
        folder: Path,
        resources: ResourcesConfig,
        timer: TrialTimer,
        checkpoints: Checkpoints,
        meter: ProgressMeter,
        requests: StopSignals,
        report: Report | None,
    ) -> None:
        self.config = config
        self.divergence = Divergence(config.trainer.divergence_factor, config.trainer.divergence_steps)
        self.limit = math.inf if resources.max_minutes is None else 60 * resources.max_minutes
        self.files, self.timer, self.checkpoints = (folder / CANCEL_FILE, folder / PRUNE_FILE), timer, checkpoints
        self.meter, self.requests, self.report = meter, requests, report
        self._losses: Any = 0.0
        """The loss and its terms for this rank's share of the step, summed over its micro-batches."""
        self._looked = -math.inf
        self._error: RuntimeError | None = None
        """What ends the trial once it has validated."""

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        # After Lightning has set its own handlers, of which the one for SIGTERM would end one rank alone.
        self.requests.listen()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        terms = {name: value for name, value in outputs.items() if name != "loss"}
        # Lightning has divided the loss by accumulate_grad_batches, and nothing else.
        shares = [value / trainer.accumulate_grad_batches for value in terms.values()]
        losses = torch.stack([outputs["loss"].detach(), *shares])
        self._losses = losses if batch_idx % trainer.accumulate_grad_batches == 0 else self._losses + losses
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        step = self._agree(trainer, list(terms))
        # The images that the weights had seen that gave this loss.
        images = pl_module.images_seen - pl_module.config.data.batch_size
        curves = {TRAIN_LOSS: step.loss, **step.terms}
        leaves = (step.leave or step.late) and step.number < self.config.max_steps
        # Lightning does not repeat a validation that follows a checkpoint at once: the state is saved after it.
        validates = step.number % self.config.epoch_steps == 0 or step.number == self.config.max_steps
        saves = leaves or (step.save and not validates)
        pl_module.log_over_images(curves, images)
        progress = self.meter.step_ended(pl_module, step.number, step.loss)
        self.meter.log_step(trainer, step.number, images)
        self.meter.due = step.due
        if self.report is not None and trainer.is_global_zero:
            self.report(progress)
        self.divergence.update(step.number, step.loss)
        if step.cancel:
            raise CancelledError("cancelled")
        if step.prune:
            raise PrunedError("pruned")
        if saves:
            # Lightning logs it after this hook, and not at all if training ends here.
            unlogged = curves if step.number % self.config.trainer.log_every_n_steps == 0 else {}
            if leaves and not validates and unlogged:
                log(trainer, unlogged, images)
                unlogged = {}
            self.timer.lap()
            self.checkpoints.save(trainer, unlogged, images)
        self.checkpoints.due |= validates and (leaves or step.save)
        if leaves and step.late:
            self._leaves(CancelledError(f"over its limit of training time at step {step.number}; its state is saved"))
        elif leaves:
            self._leaves(PreemptedError(f"asked to make room at step {step.number}"))

    def _leaves(self, error: RuntimeError) -> None:
        """End the trial, whose state is saved: now, or after the validation that comes next."""
        if not self.checkpoints.due:
            raise error
        self._error = error

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self._error is not None:
            raise self._error

    def _agree(self, trainer: L.Trainer, terms: list[str]) -> Step:
        cancel, prune = self._asked_to_end() if trainer.is_global_zero else (False, False)
        late = trainer.is_global_zero and self.timer.so_far > self.limit
        due = trainer.is_global_zero and self.meter.wants_line
        losses = self._losses.float()
        flags = [cancel, prune, self.requests.leave, late, due]
        if self.checkpoints.policy.timed:
            flags.append(trainer.is_global_zero and self.checkpoints.wanted(trainer.global_step))
        if trainer.world_size > 1:
            own = torch.tensor(flags, dtype=losses.dtype).to(losses.device)
            reduced = torch.cat([losses / trainer.world_size, own])
            torch.distributed.all_reduce(reduced)
            losses, counts = reduced[: len(losses)], reduced[len(losses) :]
            flags = [count > 0 for count in counts.tolist()]
        loss, *means = losses.tolist()
        return Step(trainer.global_step, loss, dict(zip(terms, means, strict=True)), *flags)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Report what the validation has measured, and look after the next step whether the report ends the trial."""
        self._looked = -math.inf
        if self.report is not None and trainer.is_global_zero:
            metrics = {name: float(value) for name, value in trainer.logged_metrics.items() if name != "step"}
            self.report(self.meter.validated(pl_module.images_seen, metrics))

    def _asked_to_end(self) -> tuple[bool, bool]:
        """Whether the trial is to be cancelled, or pruned."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return False, False
        self._looked = time.monotonic()
        cancel, prune = (file.exists() for file in self.files)
        return cancel, prune

    def state_dict(self) -> dict[str, Any]:
        return {"minimum": self.divergence.minimum, "above": self.divergence.above}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.divergence.minimum, self.divergence.above = state_dict["minimum"], state_dict["above"]
