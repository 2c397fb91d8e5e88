"""Check that activations keep their size over widths under muP (the coordinate check), beside standard.

  lina coordinates [widths=[32,64,128,256]] [model.attention.gate=output]

Trains small models on the digits for a few steps and prints the mean |activation| of each layer at each width, and the
ratio of the largest to the smallest. The check passes if no ratio under muP is above 1.3; the exit code is 1 if it
fails. Run it after a change of the model or a new variant, before a learning rate is transferred over widths.
"""

from pydantic.dataclasses import dataclass

from lina_lab.config import CHECKS
from lina_lab.config.checks import PositiveFloat, PositiveInt
from lina_lab.config.grammar import Command


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class CoordinatesConfig:
    """Fields of `lina coordinates`."""

    widths: tuple[PositiveInt, ...] = (32, 64, 128, 256)
    """Widths to compare, multiples of the channels of a head; two or more."""
    model: dict[str, object] | None = None
    """Fields of the model of the base width that differ from the default's (dim=32, num_heads=2, one block a stack),
    each as model.FIELD=VALUE."""
    steps: PositiveInt = 5
    """Optimizer steps before the measurement."""
    lr: PositiveFloat = 4e-3
    """Learning rate, without warm-up."""
    batch_size: PositiveInt = 16
    """Images of a step."""
    seeds: PositiveInt = 8
    """Number of seeds; activations are means over them."""
    out: str = "reports/coordinates"
    """Folder of the figure and the table."""


COMMAND = Command(config=CoordinatesConfig, run="lina_lab.commands.coordinate_check:run", doc=__doc__)
