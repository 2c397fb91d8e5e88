"""Optimizers by name: `optimizer.name`, and how a trial uses one.

A package of somebody else's adds one by an entry point of the group `lina_lab.optimizers`, see CONTRIBUTING.md.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from lina_lab.config.checks import CHECKS, FROM_LIST, Checked, Decay, NonNegativeInt, OneOf, PositiveFloat
from lina_lab.util.registry import OpenRegistry, resolve


@dataclasses.dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class OptimizerConfig(Checked):
    """The optimizer, with a linear warm-up of the learning rate and then a constant one."""

    name: Annotated[str, OneOf(OPTIMIZERS)] = "adamw"
    """Optimizer: adamw, or one of an installed package."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of an optimizer from another package, by its own names; adamw has none."""
    lr: PositiveFloat = 8e-4
    """Learning rate after the warm-up."""
    warmup_images: NonNegativeInt = 0
    """Images seen during the linear warm-up of the learning rate."""
    betas: Annotated[tuple[Decay, Decay], FROM_LIST] = (0.9, 0.95)
    """Decay rates of the first and second moment."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.02
    """Weight decay; norms have none."""

    def _problems(self) -> Iterator[str]:
        known = OPTIMIZERS[self.name].options
        for option, value in self.options.items():
            if option not in known:
                listed = f"which has {', '.join(known)}" if known else "which has none"
                yield f"options.{option} is not an option of name={self.name}, {listed}"
            if not isinstance(value, bool | int | float | str | None):
                yield f"options.{option}={value!r} must be a number, a text, true, false or null"
