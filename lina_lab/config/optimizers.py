"""Optimizers by name: `optimizer.name`.

A package of somebody else's adds one by an entry point of the group `lina_lab.optimizers`, see CONTRIBUTING.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lina_lab.util.registry import OpenRegistry, resolve


@dataclass(frozen=True, kw_only=True)
class OptimizerEntry:
    """What the configuration knows of an optimizer."""

    name: str
    documentation: str
    """One line for the help."""
    maker: Any
    """Maps (parameter groups, OptimizerConfig) to a `torch.optim.Optimizer`: "package.module:attribute", imported when
    training starts, or the function. Groups are dicts with `params` and `weight_decay`."""
    adam_like: bool = False
    """Whether it steps as Adam does, elementwise and by an amount that does not grow with the gradients. Only then do
    the factors of `model.parametrization=mup` hold."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of its own that `optimizer.options` may set, with their defaults."""

    def check(self) -> None:
        """Refuse an entry that is not complete.

        Raises:
            ValueError: what is missing.
        """
        if not (isinstance(self.maker, str) or callable(self.maker)):
            raise ValueError(f"optimizer.name={self.name} has no maker: an entry says what makes the optimizer")

    def load(self) -> Any:
        """The function that makes the optimizer."""
        return resolve(self.maker)


OPTIMIZERS: OpenRegistry[OptimizerEntry] = OpenRegistry("optimizer.name", "lina_lab.optimizers", OptimizerEntry)
OPTIMIZERS.register(
    OptimizerEntry(
        name="adamw",
        documentation="AdamW (arXiv 1711.05101), fused",
        maker="lina_lab.training.optimizers:adamw",
        adam_like=True,
    )
)
