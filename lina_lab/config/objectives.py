"""What cells of a study are compared by, and for how long they train."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic.dataclasses import dataclass

from lina_lab.config.checks import CHECKS, Checked, OneOf, PositiveFloat
from lina_lab.config.metrics import METRICS


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class ObjectiveConfig(Checked):
    """A metric at the end of training, by which cells are compared."""

    metric: Annotated[str, OneOf(METRICS)]
    """Name of the metric."""
    direction: Literal["minimize", "maximize"] = "minimize"
    """Which way is better: maximize for eval/captions and accuracies, minimize for the other built-in metrics."""

    def _problems(self) -> Iterator[str]:
        better = METRICS[self.metric].direction
        if self.direction != better:
            yield f"metric={self.metric} needs direction={better}"


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class BudgetConfig:
    """The training budget of a cell, equal for all cells; it is converted to images."""

    unit: Literal["images", "tokens", "flops"]
    """images seen; image tokens seen; training FLOPs (two for each multiply-add, see `lina count`)."""
    amount: PositiveFloat
    """The budget in this unit."""
