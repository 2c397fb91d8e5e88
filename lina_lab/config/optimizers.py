"""Optimizers by name: `optimizer.name`, and how a trial uses one.

A package of somebody else's adds one by an entry point of the group `lina_lab.optimizers`, see CONTRIBUTING.md.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from lina_lab.config.checks import CHECKS, FROM_LIST, Checked, Decay, NonNegativeInt, OneOf, PositiveFloat, Share
from lina_lab.config.schedules import SCHEDULES
from lina_lab.util.registry import OpenRegistry, resolve


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerEntry:
    """What the configuration knows of an optimizer."""

    name: str
    documentation: str
    """One line for the help."""
    maker: Any
    """Maps (parameter groups, OptimizerConfig) to a `torch.optim.Optimizer`: "package.module:attribute", imported when
    training starts, or the function. Groups are dicts with `params` and `weight_decay`, for matrices=True also
    `matrices`."""
    adam_like: bool = False
    """Whether it steps as Adam does, elementwise and by an amount that does not grow with the gradients. Only then do
    the factors of `model.parametrization=mup` hold."""
    matrices: bool = False
    """Whether it treats the blocks' matrices, the weights of their linear layers, in a way of their own. Then the key
    `matrices` of a group says whether it holds these alone, and sharded weights (strategy=fsdp) are refused."""
    moments: int = 2
    """Numbers that it keeps of a parameter, or of most parameters: for the size of checkpoints in a plan."""
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
for entry in (
    OptimizerEntry(
        name="adamw",
        documentation="AdamW (arXiv 1711.05101), fused",
        maker="lina_lab.training.optimizers:adamw",
        adam_like=True,
    ),
    OptimizerEntry(
        name="muon",
        documentation="Muon (arXiv 2502.16982) for the blocks' matrices, AdamW for the rest",
        maker="lina_lab.training.muon:muon",
        matrices=True,
        moments=1,
        options={"momentum": 0.95, "ns_steps": 5},
    ),
):
    OPTIMIZERS.register(entry)


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class OptimizerConfig(Checked):
    """The optimizer, its learning rate over training, and gradient clipping."""

    name: Annotated[str, OneOf(OPTIMIZERS)] = "adamw"
    """Optimizer: adamw; muon, which is Muon for the weights of linear layers in blocks and AdamW for all others, both
    at the same rate; or one of an installed package."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the optimizer, by its own names. adamw has none; muon has momentum (0.95) and ns_steps (5)."""
    lr: PositiveFloat = 8e-4
    """Learning rate after the warm-up."""
    warmup_images: NonNegativeInt = 0
    """Images seen during the linear warm-up of the learning rate."""
    schedule: Annotated[str, OneOf(SCHEDULES)] = "constant"
    """Learning rate after the warm-up. constant: it stays; cosine and linear: it falls until the budget ends; wsd: it
    stays and falls in the cooldown alone, as 1 - √progress."""
    cooldown: Annotated[float, Field(gt=0, le=1)] | None = None
    """For schedule=wsd: share of the budget, at its end, in which the rate falls, such as 0.2."""
    final_rate: Share = 0.0
    """For cosine, linear and wsd: the rate at the end of the budget, as a share of lr."""
    betas: Annotated[tuple[Decay, Decay], FROM_LIST] = (0.9, 0.95)
    """Decay rates of the first and second moment."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.02
    """Weight decay; norms have none."""
    clip_norm: PositiveFloat | None = None
    """Largest Euclidean norm of all gradients together; larger gradients are scaled down to it. null: no limit."""

    def _problems(self) -> Iterator[str]:
        known = OPTIMIZERS[self.name].options
        for option, value in self.options.items():
            if option not in known:
                listed = f"which has {', '.join(known)}" if known else "which has none"
                yield f"options.{option} is not an option of name={self.name}, {listed}"
            if not isinstance(value, bool | int | float | str | None):
                yield f"options.{option}={value!r} must be a number, a text, true, false or null"
        yield from SCHEDULES[self.schedule].problems(self)
