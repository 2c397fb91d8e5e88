"""Generate images with a trained model.

  lina sample checkpoint=PATH out=FOLDER [images=50000] [guidance_scale=2.4]
  torchrun --nproc-per-node 8 -m lina_lab.cli sample checkpoint=PATH out=FOLDER

Under torchrun the ranks share the work, and the images are the same as those of one process. The same command resumes
after an interruption.
"""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lina_lab.config import CHECKS
from lina_lab.config.checks import NonNegativeInt, PositiveInt
from lina_lab.config.grammar import Command
from lina_lab.evaluation.recipe_names import RENAMED

Guidance = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class SampleConfig:
    """Fields of `lina sample`."""

    checkpoint: str
    """Checkpoint of a trial (step-*.ckpt), folder of a cell, folder of a model, weights that the authors published, or
    runs:/ID for a cell's run in MLflow."""
    out: str
    """Folder to write the images to."""
    weights: Literal["ema", "raw"] = "ema"
    """Weights of a checkpoint: the exponential moving average, or those of the last step."""
    ema: float | None = None
    """For a trial with ema.profiles: length (relative width) of the averaged weights, such as 0.1, which are rebuilt;
    null: the weights that the checkpoint holds."""
    images: PositiveInt | None = None
    """Number of images, 50,000 for the published metrics; null: 1000, or 4 for each prompt."""
    classes: list[NonNegativeInt] | None = None
    """Classes, used in turn; null: all classes of the model."""
    prompts: str | None = None
    """For a text-conditional model: a file of captions, one a line, or GenEval's evaluation_metadata.jsonl; used in
    turn. The images are also written in GenEval's layout."""
    encoder: str | None = None
    """For prompts: the text encoder, `words` or a folder or hub name; null: that of the checkpoint or of the
    shards."""
    ar_steps: PositiveInt | None = None
    """Autoregressive steps K; null: 64, or the number of tokens if that is smaller."""
    ode_steps: PositiveInt = 25
    """Steps of the flow's ODE, of LINA in each autoregressive step."""
    ode_solver: Literal["euler", "heun"] = "euler"
    """Method of these steps; heun calls the model twice in each but the last."""
    guidance_scale: Guidance = 1.0
    """Scale of classifier-free guidance at the last step; 1: no guidance."""
    guidance_scale_start: Guidance = 1.0
    """Scale of classifier-free guidance at the first step."""
    seed: NonNegativeInt = 0
    """Seed of the noise and masks: image i has its own, from (seed, i)."""
    batch_size: PositiveInt = 50
    """Images generated together."""
    vae: str | None = None
    """Folder or hub name of the diffusers autoencoder of the latents; null: the latents are pixels."""
    shards: str | None = None
    """Folder of the shards that the model was trained on; their manifest holds the scale of the latents for vae, and
    names the text encoder where they hold its states; null: the checkpoint's data.path, if it is there."""

    def __post_init__(self) -> None:
        if self.ema is not None and self.weights == "raw":
            raise ValueError(f"ema={self.ema:g} is a length of averaged weights, and weights=raw are not averaged")


COMMAND = Command(config=SampleConfig, run="lina_lab.commands.sample_images:run", doc=__doc__, renamed=RENAMED)
