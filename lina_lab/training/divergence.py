"""The rule by which a trial has diverged."""

import math


class DivergedError(RuntimeError):
    """The training loss is not finite, or has stayed far above its minimum."""


class Divergence:
    """Tells whether a loss is not finite, or has been above a multiple of its minimum for some steps in a row.

    Args:
        factor: the multiple.
        steps: how many steps in a row.
    """

    def __init__(self, factor: float, steps: int) -> None:
        self.factor, self.steps = factor, steps
        self.minimum, self.above = math.inf, 0

    def update(self, step: int, loss: float) -> None:
        """Take a step's loss into account.

        Raises:
            DivergedError: the loss has diverged.
        """
        if not math.isfinite(loss):
            raise DivergedError(f"the training loss is {loss} at step {step}")
        self.minimum = min(self.minimum, loss)
        self.above = self.above + 1 if loss > self.factor * self.minimum else 0
        if self.above >= self.steps:
            reason = f"the training loss was above {self.factor:g} times its minimum of {self.minimum:.4g}"
            raise DivergedError(f"{reason} for {self.steps} steps at step {step}")
