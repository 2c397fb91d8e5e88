"""Look at the attentions of a trained model, block by block and head by head: what sets one variant apart from another.

  lina inspect checkpoint=PATH out=FOLDER [images=32] [weights=ema]
  lina inspect checkpoint=OFFICIAL_WEIGHTS data.name=shards data.path=FOLDER out=FOLDER

The model runs on frozen validation images and noise, and all its attention matrices are computed from that. Written
are inspect.csv, gates.npz where there is a gate, figures, and index.html, which holds all of it.
"""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lina_lab.config import CHECKS
from lina_lab.config.checks import NonNegativeInt, PositiveInt
from lina_lab.config.grammar import Command

Share = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class InspectConfig:
    """Fields of `lina inspect`."""

    checkpoint: str
    """Checkpoint of a trial (step-*.ckpt), folder of a cell, folder of a model, weights that the authors published, or
    runs:/ID for a cell's run in MLflow."""
    out: str
    """Folder to write to."""
    images: PositiveInt = 32
    """Validation images, spread evenly over the validation set."""
    weights: Literal["ema", "raw"] = "ema"
    """Weights of a checkpoint: the exponential moving average, or those of the last step."""
    data: dict[str, object] | None = None
    """Fields of the data, each as data.FIELD=VALUE; null: those of the checkpoint's trial. Weights without a trial need
    data.name."""
    rows: PositiveInt = 256
    """Query rows of each attention matrix; a random subset where there are more tokens."""
    unlike: Share = 0.25
    """Two queries are unlike if their distance, by the sum of their norms, is larger."""
    alike: Share = 0.05
    """Two rows of weights are alike if their distance, by the sum of their weights, is smaller."""
    seed: NonNegativeInt = 0
    """Seed of the random rows, and of the tokens whose receptive field is measured."""


COMMAND = Command(config=InspectConfig, run="lina_lab.commands.inspect_attentions:run", doc=__doc__)
