"""Images from a trained model: `python -m lina_lab.sample checkpoint=PATH out=FOLDER [images=N] [guidance=G]`.

Under torchrun the ranks share the work, and the images are the same as one process draws. The same command goes on
where it stopped.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from lina_lab.config import CHECKS
from lina_lab.config.checks import NonNegativeInt, PositiveInt
from lina_lab.dotlist import one_line, parse
from lina_lab.evaluation.sampling import SAMPLES_FILE, Pixels, Recipe, sample, to_pixels
from lina_lab.evaluation.weights import load_trained

Guidance = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class SampleConfig:
    """What the command takes."""

    checkpoint: str
    """A trial's checkpoint (step-*.ckpt), a cell's folder, or a model's folder."""
    out: str
    """Folder of the images."""
    weights: Literal["ema", "raw"] = "ema"
    """Which weights of a checkpoint."""
    images: PositiveInt = 1000
    """How many; 50,000 for the published metrics."""
    classes: list[NonNegativeInt] | None = None
    """Classes, in turn; null: all of the model's."""
    steps: PositiveInt | None = None
    """Autoregressive steps K; null: 64, or the model's tokens if they are fewer."""
    flow_steps: PositiveInt = 25
    """Euler steps of the flow's ODE for each of them."""
    guidance: Guidance = 1.0
    """Guidance at the last step."""
    min_guidance: Guidance = 1.0
    """Guidance at the first step."""
    seed: NonNegativeInt = 0
    """Of the draws: image i has its own from (seed, i)."""
    portion: PositiveInt = 50
    """Images drawn together."""
    vae: str | None = None
    """Folder or hub name of the diffusers autoencoder that the latents are of; null: they are pixels."""
    shards: str | None = None
    """For vae: folder of the shards that the model was trained on; their manifest says how latents were scaled."""

    def __post_init__(self) -> None:
        if (self.vae is None) != (self.shards is None):
            raise ValueError(
                "vae=NAME and shards=FOLDER go together: the shards' manifest says how latents were scaled"
            )


def recipe_of(config: SampleConfig, tokens: int, classes: int | None, weights: str, sha256: str) -> Recipe:
    """The recipe of a command for a model of so many tokens and classes.

    Raises:
        ValueError: classes that the model does not have.
    """
    chosen = tuple(config.classes if config.classes is not None else range(classes or 0))
    if chosen and (classes is None or max(chosen) >= classes):
        raise ValueError(f"classes={list(chosen)[:5]}: the model has {classes or 'no'} classes")
    return Recipe(
        images=config.images,
        classes=chosen,
        steps=config.steps or min(64, tokens),
        flow_steps=config.flow_steps,
        guidance=config.guidance,
        min_guidance=config.min_guidance,
        seed=config.seed,
        portion=config.portion,
        weights=weights,
        weights_sha256=sha256,
        decoder=config.vae or "pixels",
    )


def run(config: SampleConfig, console: Console) -> int:
    """Draw; 0. Says where the images are once all of them are there."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else "cpu"
    trained = load_trained(Path(config.checkpoint), config.weights)
    model = trained.model.to(device)
    recipe = recipe_of(config, model.config.num_tokens, model.config.num_classes, trained.weights, trained.sha256)
    decode = _decoder(config, device)
    portions = -(-config.images // config.portion)
    mine = sum(min(config.portion, config.images - i * config.portion) for i in range(rank, portions, world))
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("images", total=mine)
        whole = sample(
            model, decode, recipe, Path(config.out), rank=rank, world=world, report=lambda n: progress.advance(task, n)
        )
    if whole:
        console.print(f"{config.images:,} images: {Path(config.out) / SAMPLES_FILE}", soft_wrap=True)
    return 0


def _decoder(config: SampleConfig, device: torch.device | str) -> Callable[[Tensor], Pixels]:
    if config.vae is None:
        return to_pixels
    from lina_lab.data.shards import read_manifest
    from lina_lab.data.vae import load_vae

    assert config.shards is not None
    manifest, vae = read_manifest(Path(config.shards)), load_vae(config.vae, device)
    if manifest.vae_sha256 != vae.sha256():
        raise ValueError(f"vae={config.vae} is not the autoencoder that made {config.shards}, which was {manifest.vae}")
    mean, std = (torch.tensor(v, device=device).reshape(-1, 1, 1) for v in (manifest.mean, manifest.std))
    return lambda latents: to_pixels(vae.decode(latents * std + mean))


def main(arguments: Sequence[str]) -> int:
    """Run the command; 0, or 2 with one sentence."""
    if {"-h", "--help"} & set(arguments):
        Console().print(__doc__)
        return 0
    try:
        return run(parse(SampleConfig, arguments), Console())
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
