"""Generated images on disk: the same set on any number of ranks, and none generated twice after an interruption.

Image i has a random generator of its own, from (seed, i). Images are generated in batches of a fixed size, so that a
batch is the same whichever rank generates it; a batch is on disk whole or not at all. The last rank to finish joins
them.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from matplotlib.image import imsave
from torch import Generator, Tensor

from lina_lab.config import SamplingConfig
from lina_lab.data.pixels import Pixels
from lina_lab.evaluation.grid import tile
from lina_lab.evaluation.recipe_names import RENAMED
from lina_lab.model import LINA
from lina_lab.model.conditions import guidance_misfit
from lina_lab.model.schedule import step_schedule
from lina_lab.util.files import atomic, read_json, write_atomically
from lina_lab.util.seeds import RNG_VERSIONS, seeded

RECIPE_FILE, SAMPLES_FILE, GRID_FILE, PARTS = "recipe.json", "samples.npz", "grid.png", "parts"
GRID_IMAGES = 64
"""Images in the grid."""


@dataclass(frozen=True, kw_only=True)
class SampleRecipe:
    """All that decides which images are generated."""

    images: int
    classes: tuple[int, ...]
    """Classes, by turns; none for an unconditional model."""
    ar_steps: int
    ode_steps: int
    guidance_scale: float
    guidance_scale_start: float
    seed: int
    batch_size: int
    """Images generated together."""
    weights: str
    weights_sha256: str
    decoder: str
    prompts: tuple[str, ...] = ()
    """Captions, by turns, for a text-conditional model."""
    encoder: str | None = None
    """The text encoder of the captions."""
    encoder_sha256: str | None = None
    ode_solver: str = "euler"
    """One of `schedule.SOLVERS`."""
    rng_version: int = 1
    """One of `seeds.RNG_VERSIONS`: 1 in recipes that do not say, 2 in new ones."""


Condition = dict[str, Tensor]
"""What images are conditioned on, as arguments of the model; empty for an unconditional one."""
Encode = Callable[[Sequence[str]], Condition]


def condition_of(recipe: SampleRecipe, indices: range, device: torch.device, encode: Encode | None = None) -> Condition:
    """The condition of the images with some indices; `encode` is for a recipe with prompts."""
    if recipe.prompts:
        assert encode is not None
        return encode([recipe.prompts[i % len(recipe.prompts)] for i in indices])
    if recipe.classes:
        return {"label": torch.tensor([recipe.classes[i % len(recipe.classes)] for i in indices], device=device)}
    return {}


def generate(
    model: Any,
    steps: SampleRecipe | SamplingConfig,
    condition: Condition,
    generator: Generator | Sequence[Generator],
    batch: int,
) -> Tensor:
    """Generate `batch` latents [batch, C, H, W] with the steps and the guidance of a configuration."""
    latents: Tensor = model.generate(
        **condition,
        batch=None if condition else batch,
        steps=steps.ar_steps,
        flow_steps=steps.ode_steps,
        guidance=steps.guidance_scale,
        min_guidance=steps.guidance_scale_start,
        solver=steps.ode_solver,
        generator=generator,
    )
    return latents


def generate_latents(model: LINA, recipe: SampleRecipe, indices: range, condition: Condition) -> Tensor:
    """Generate the latents [n, C, H, W] of the recipe's images with some indices, which have this condition."""
    generators = [seeded(recipe.rng_version, recipe.seed, "sample", i) for i in indices]
    return generate(model, recipe, condition, generators, len(indices))


def rng_version_in(folder: Path) -> int:
    """How generators are seeded for a folder's images: as was begun there, and in a new folder by all bits."""
    path = folder / RECIPE_FILE
    return int(_read_recipe(path)["rng_version"]) if path.exists() else RNG_VERSIONS[-1]


def check_recipe(folder: Path, recipe: SampleRecipe) -> None:
    """Note the recipe in the folder, or compare it with the one that is noted there.

    Raises:
        ValueError: the folder's images are of another recipe.
    """
    path, mine = folder / RECIPE_FILE, json.loads(json.dumps(asdict(recipe)))
    if not path.exists():
        write_atomically(path, json.dumps(mine, indent=1) + "\n")
        return
    noted = _read_recipe(path)
    other = [f"{name}={noted[name]} there" for name in mine if noted[name] != mine[name]]
    if other:
        raise ValueError(f"{folder} holds images of another recipe ({', '.join(other)}): choose another out=FOLDER")


def _read_recipe(path: Path) -> dict[str, Any]:
    """A noted recipe as plain data with today's names; a field that its version did not know has its default."""
    stored = {RENAMED.get(name, name): value for name, value in read_json(path).items()}
    defaults = {field.name: None if field.default is MISSING else field.default for field in fields(SampleRecipe)}
    return {**json.loads(json.dumps(defaults)), **stored}


def sample(
    model: LINA,
    decode: Callable[[Tensor], Pixels],
    recipe: SampleRecipe,
    folder: Path,
    *,
    rank: int = 0,
    world_size: int = 1,
    encode: Encode | None = None,
    report: Callable[[int], None] = lambda _: None,
) -> bool:
    """Generate this rank's batches that are not on disk yet; the rank that finds all of them there joins them.

    Args:
        model: on its device.
        decode: latents to pixels.
        recipe: what to generate.
        folder: where to write; shared by the ranks.
        rank: of this process.
        world_size: processes that generate.
        encode: captions to arguments of the model, for a recipe with prompts.
        report: called with the number of images after each batch of this rank.

    Returns:
        Whether the whole set is there now: other ranks may still be generating.

    Raises:
        ValueError: the recipe does not fit the model, or the folder holds images of another one.
    """
    _check(model, decode, recipe)
    parts = folder / PARTS
    parts.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        check_recipe(folder, recipe)
    if (folder / SAMPLES_FILE).exists():
        return True
    size = recipe.batch_size
    batches = [range(recipe.images)[start : start + size] for start in range(0, recipe.images, size)]
    device = next(model.parameters()).device
    for number in range(rank, len(batches), world_size):
        path = parts / f"{number:06d}.npy"
        if not path.exists():
            condition = condition_of(recipe, batches[number], device, encode)
            pixels = decode(generate_latents(model, recipe, batches[number], condition))
            with atomic(path) as draft, draft.open("wb") as file:
                np.save(file, pixels, allow_pickle=False)
        report(len(batches[number]))
    with FileLock(folder / ".lock"):
        files = [parts / f"{number:06d}.npy" for number in range(len(batches))]
        if not (folder / SAMPLES_FILE).exists() and all(file.exists() for file in files):
            _join(folder, recipe, files)
        return (folder / SAMPLES_FILE).exists()


def _check(model: LINA, decode: Callable[[Tensor], Pixels], recipe: SampleRecipe) -> None:
    """Raise what generating would raise, before the recipe is noted in the folder."""
    config = model.config
    step_schedule(config.num_tokens, recipe.ar_steps)
    guided = (recipe.guidance_scale, recipe.guidance_scale_start) != (1.0, 1.0)
    if guided and (misfit := guidance_misfit(config)) is not None:
        raise ValueError(misfit)
    blank = torch.zeros(1, config.latent_channels, *config.latent_size, device=next(model.parameters()).device)
    decode(blank)


def _join(folder: Path, recipe: SampleRecipe, files: Sequence[Path]) -> None:
    """Write `samples.npz` in ADM's layout (`arr_0` uint8 [n, H, W, 3], `arr_1` classes), and a grid of the first."""
    first = np.load(files[0], allow_pickle=False)
    whole_file = folder / "samples.draft.npy"
    # On disk: 50,000 images of 256 pixels are 10 GB.
    whole = np.lib.format.open_memmap(whole_file, mode="w+", dtype=np.uint8, shape=(recipe.images, *first.shape[1:]))
    for number, file in enumerate(files):
        whole[number * recipe.batch_size : (number + 1) * recipe.batch_size] = np.load(file, allow_pickle=False)
    arrays: dict[str, npt.NDArray[np.generic]] = {"arr_0": whole}
    if recipe.classes:
        arrays["arr_1"] = np.resize(np.array(recipe.classes, dtype=np.int64), recipe.images)
    shown = whole[:GRID_IMAGES]
    with atomic(folder / SAMPLES_FILE) as draft:
        with draft.open("wb") as npz:
            np.savez(npz, **arrays)  # type: ignore[arg-type]
        # About as many down as across.
        imsave(folder / GRID_FILE, tile(shown, int(np.ceil(np.sqrt(len(shown))))))
    whole_file.unlink()
    for file in files:
        file.unlink()
