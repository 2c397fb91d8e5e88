"""The end of an optimizer step, where all ranks come to the same view of it, and to the same end."""

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from lina_lab.records.files import CANCEL_FILE
from lina_lab.records.result import Progress, Report
from lina_lab.records.runstore import TRAIN_LOSS

LOOK_SECONDS = 1.0
"""Between two looks for a file."""


class DivergedError(RuntimeError):
    """The training loss is not finite, or has stayed far above its minimum."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"{reason} at step {step}")
        self.step = step


class CancelledError(RuntimeError):
    """Somebody asked for the trial to end."""


class PreemptedError(RuntimeError):
    """The trial was asked to make room. Its state is saved."""


@dataclass
class StopSignals:
    """What a process is asked for by signals."""

    signals: tuple[signal.Signals, ...] = ()
    """Each asks it to leave."""
    leave: bool = False
    """Save the state and end: the trial goes on elsewhere, or later."""
    terminated: bool = False
    """The request was SIGTERM: whoever sent it will see to what comes after."""

    def listen(self) -> None:
        """Take the signals from now on, whoever took them before. A handler does no more than set a flag: the ranks of
        a group are at different points, and what needs all of them would wait for ever."""
        for number in self.signals:
            signal.signal(number, self._take)

    def _take(self, number: int, frame: Any) -> None:
        self.leave, self.terminated = True, self.terminated or number == signal.SIGTERM


@dataclass(frozen=True)
class Step:
    """An optimizer step, as all ranks see it."""

    number: int
    """Steps taken, this one included."""
    loss: float
    """Mean over the batch of all ranks."""
    cancel: bool
    leave: bool
    late: bool = False


class Divergence:
    """Tells whether a loss is not finite, or has been above a multiple of its minimum for some steps in a row."""

    def __init__(self, factor: float, steps: int) -> None:
        self.factor, self.steps = factor, steps
        self.minimum, self.above = math.inf, 0

    def look(self, step: Step) -> None:
        """Take note of a step.

        Raises:
            DivergedError: that is so.
        """
        if not math.isfinite(step.loss):
            raise DivergedError(step.number, f"the training loss is {step.loss}")
        self.minimum = min(self.minimum, step.loss)
        self.above = self.above + 1 if step.loss > self.factor * self.minimum else 0
        if self.above >= self.steps:
            reason = f"the training loss was above {self.factor:g} times its minimum of {self.minimum:.4g}"
            raise DivergedError(step.number, f"{reason} for {self.steps} steps")


class StepSync(Callback):
    """Agrees on each step among the ranks, logs its loss, and ends the trial on all of them at once.

    What one rank alone knows (the file that cancels, a signal, the time, its part of the loss) is summed over the ranks
    in one reduction of four numbers. Nobody acts on less, so no rank waits in a collective for one that has ended.

    Args:
        folder: the trial's; the file that cancels appears there.
        divergence: the rule.
        requests: what this process was asked for.
        late: whether the trial has trained for longer than it may, as the first rank sees it.
        save: saves the state; called on all ranks before they leave.
        report: called after each step.

    Raises:
        DivergedError, CancelledError, PreemptedError: behind a step, on all ranks.
    """

    @property
    def state_key(self) -> str:
        """Its name in checkpoints, since version 0.1."""
        return "StepEnd"

    def __init__(
        self,
        folder: Path,
        divergence: Divergence,
        requests: StopSignals,
        late: Callable[[], bool],
        save: Callable[[L.Trainer], None],
        report: Report | None,
    ) -> None:
        self.file, self.divergence, self.requests, self.save = folder / CANCEL_FILE, divergence, requests, save
        self.late, self.report = late, report
        self._part = 0.0
        self._looked = -math.inf

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        # Behind Lightning's own handlers, of which that for SIGTERM would end one rank alone.
        self.requests.listen()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        accumulate_grad_batches = trainer.accumulate_grad_batches
        # Lightning has divided it by the number of accumulate_grad_batches.
        loss = outputs["loss"].detach()
        self._part = loss if batch_idx % accumulate_grad_batches == 0 else self._part + loss
        if (batch_idx + 1) % accumulate_grad_batches:
            return
        step = self._agree(trainer)
        pl_module.log_over_images({TRAIN_LOSS: step.loss}, pl_module.images_seen - pl_module.config.data.batch_size)
        if self.report is not None and trainer.is_global_zero:
            self.report(Progress(images=pl_module.images_seen, loss=step.loss))
        self.divergence.look(step)
        if step.cancel:
            raise CancelledError("cancelled")
        if (step.leave or step.late) and pl_module.global_step < pl_module.config.max_steps:
            self._log_now(trainer, pl_module, step)
            self.save(trainer)
            if step.late:
                raise CancelledError(f"over its limit of training time at step {step.number}; its state is saved")
            raise PreemptedError(f"asked to make room at step {step.number}")

    @staticmethod
    def _log_now(trainer: L.Trainer, pl_module: Any, step: Step) -> None:
        """Log a step's loss that Lightning would log later, and not at all if training ends here."""
        if trainer.logger is not None and step.number % pl_module.config.trainer.log_every_n_steps == 0:
            images = pl_module.images_seen - pl_module.config.data.batch_size
            trainer.logger.log_metrics({TRAIN_LOSS: step.loss}, step=images)

    def _agree(self, trainer: L.Trainer) -> Step:
        cancel = trainer.is_global_zero and self._cancelled()
        late = trainer.is_global_zero and self.late()
        part = torch.as_tensor(self._part).float().reshape(1)
        if trainer.world_size == 1:
            return Step(trainer.global_step, float(part), cancel, self.requests.leave, late)
        flags = torch.tensor([cancel, self.requests.leave, late], dtype=part.dtype).to(part.device)
        view = torch.cat([part / trainer.world_size, flags])
        torch.distributed.all_reduce(view)
        loss, *asked = view.tolist()
        return Step(trainer.global_step, loss, *(number > 0 for number in asked))

    def _cancelled(self) -> bool:
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return False
        self._looked = time.monotonic()
        return self.file.exists()

    def state_dict(self) -> dict[str, Any]:
        return {"minimum": self.divergence.minimum, "above": self.divergence.above}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.divergence.minimum, self.divergence.above = state_dict["minimum"], state_dict["above"]
