"""The exponential moving average of the weights."""

from pydantic.dataclasses import dataclass

from lina_lab.config.checks import CHECKS, Decay, PositiveInt


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class EmaConfig:
    """Exponential moving average of the weights."""

    decay: Decay = 0.99
    """Decay rate of the average at each update."""
    every_n_steps: PositiveInt = 100
    """Optimizer steps between two updates."""
