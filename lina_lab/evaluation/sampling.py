"""Generated images on disk: the same set on any number of ranks, and none drawn twice after an interruption.

Image i has draws of its own, from (seed, i). Images are drawn in portions of a fixed size, so that a portion is the
same whoever draws it; a portion is on disk whole or not at all. The last rank to finish puts them together.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from matplotlib.image import imsave
from torch import Generator, Tensor

from lina_lab.model import LINA
from lina_lab.model.masking import step_schedule
from lina_lab.util.files import write_atomically
from lina_lab.util.seeds import derive

Pixels = npt.NDArray[np.uint8]
RECIPE_FILE, SAMPLES_FILE, GRID_FILE, PARTS = "recipe.json", "samples.npz", "grid.png", "parts"
GRID = 64
"""Images in the grid."""
FRAME = 217
"""Shade of the lines between images: white ones would not be told from a white background."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides which images these are."""

    images: int
    classes: tuple[int, ...]
    """In turn; none of an unconditional model."""
    ar_steps: int
    ode_steps: int
    guidance_scale: float
    guidance_scale_start: float
    seed: int
    batch_size: int
    """Images drawn together."""
    weights: str
    weights_sha256: str
    decoder: str
    prompts: tuple[str, ...] = ()
    """Captions in turn, of a model of texts."""
    encoder: str | None = None
    """What turns them into states."""
    encoder_sha256: str | None = None


Condition = dict[str, Tensor]
"""What images are to be of, as arguments of the model; nothing for an unconditional one."""
Encode = Callable[[Sequence[str]], Condition]


def condition_of(recipe: Recipe, places: range, device: torch.device, encode: Encode | None = None) -> Condition:
    """What the images at some places are of; `encode` is for a recipe with prompts."""
    if recipe.prompts:
        assert encode is not None
        return encode([recipe.prompts[i % len(recipe.prompts)] for i in places])
    if recipe.classes:
        return {"label": torch.tensor([recipe.classes[i % len(recipe.classes)] for i in places], device=device)}
    return {}


def draw(model: LINA, recipe: Recipe, places: range, condition: Condition, kind: str = "sample") -> Tensor:
    """Latents [n, C, H, W] of the images at some places; `kind` names the family of their draws."""
    return model.generate(
        **condition,
        batch=None if condition else len(places),
        steps=recipe.ar_steps,
        flow_steps=recipe.ode_steps,
        guidance=recipe.guidance_scale,
        min_guidance=recipe.guidance_scale_start,
        generator=[Generator().manual_seed(derive(recipe.seed, kind, i)) for i in places],
    )


def to_pixels(latents: Tensor) -> Pixels:
    """Images in -1..1, [n, C, H, W] with one or three channels, as uint8 [n, H, W, 3]."""
    if latents.shape[1] not in (1, 3):
        raise ValueError(f"{latents.shape[1]} channels are no pixels: name the decoder of these latents")
    levels = ((latents.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()


def check_recipe(folder: Path, recipe: Recipe) -> None:
    """Note the recipe in the folder, or hold it against the one that is there.

    Raises:
        ValueError: the folder's images are of another recipe.
    """
    path, mine = folder / RECIPE_FILE, json.loads(json.dumps(asdict(recipe)))
    if not path.exists():
        write_atomically(path, json.dumps(mine, indent=1) + "\n")
        return
    theirs = json.loads(path.read_text())
    # A field that an earlier version did not know had its default.
    usual = {field.name: field.default for field in fields(Recipe) if field.default is not MISSING}
    there = {name: theirs.get(name, json.loads(json.dumps(usual.get(name)))) for name in mine}
    other = [f"{name}={there[name]} there" for name in mine if there[name] != mine[name]]
    if other:
        raise ValueError(f"{folder} holds images of another recipe ({', '.join(other)}): choose another out=FOLDER")


def sample(
    model: LINA,
    decode: Callable[[Tensor], Pixels],
    recipe: Recipe,
    folder: Path,
    *,
    rank: int = 0,
    world_size: int = 1,
    encode: Encode | None = None,
    report: Callable[[int], None] = lambda _: None,
) -> bool:
    """Draw this rank's portions that are not on disk yet; whoever finds all of them there puts them together.

    Args:
        model: on its device.
        decode: latents to pixels.
        recipe: what to draw.
        folder: where to; shared by the ranks.
        rank: of this process.
        world_size: processes that draw.
        encode: captions to arguments of the model, for a recipe with prompts.
        report: called with the number of images behind each portion of this rank.

    Returns:
        Whether the whole set is there now: the other ranks may still be drawing.
    """
    _check(model, decode, recipe)
    parts = folder / PARTS
    parts.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        check_recipe(folder, recipe)
    if (folder / SAMPLES_FILE).exists():
        return True
    portions = [
        range(start, min(start + recipe.batch_size, recipe.images))
        for start in range(0, recipe.images, recipe.batch_size)
    ]
    device = next(model.parameters()).device
    for number in range(rank, len(portions), world_size):
        path = parts / f"{number:06d}.npy"
        if not path.exists():
            condition = condition_of(recipe, portions[number], device, encode)
            _write(path, decode(draw(model, recipe, portions[number], condition)))
        report(len(portions[number]))
    with FileLock(folder / ".lock"):
        files = [parts / f"{number:06d}.npy" for number in range(len(portions))]
        if not (folder / SAMPLES_FILE).exists() and all(file.exists() for file in files):
            _put_together(folder, recipe, files)
        return (folder / SAMPLES_FILE).exists()


def _check(model: LINA, decode: Callable[[Tensor], Pixels], recipe: Recipe) -> None:
    """Raise what drawing would raise, before the folder is one of this recipe."""
    config = model.config
    step_schedule(config.num_tokens, recipe.ar_steps)
    if (recipe.guidance_scale, recipe.guidance_scale_start) != (1.0, 1.0) and not config.conditional:
        raise ValueError("guidance needs a model with a condition: this one has neither classes nor texts")
    blank = torch.zeros(1, config.latent_channels, *config.latent_size, device=next(model.parameters()).device)
    decode(blank)


def _write(path: Path, pixels: Pixels) -> None:
    draft = path.with_name(path.name + ".draft")
    with draft.open("wb") as file:
        np.save(file, pixels, allow_pickle=False)
    draft.replace(path)


def _put_together(folder: Path, recipe: Recipe, files: Sequence[Path]) -> None:
    """`samples.npz` in ADM's layout (`arr_0` uint8 [n, H, W, 3], `arr_1` classes) and a grid of the first images."""
    first = np.load(files[0], allow_pickle=False)
    whole_file = folder / "samples.draft.npy"
    # On disk: 50,000 images of 256 pixels are 10 GB.
    whole = np.lib.format.open_memmap(whole_file, mode="w+", dtype=np.uint8, shape=(recipe.images, *first.shape[1:]))
    for number, file in enumerate(files):
        whole[number * recipe.batch_size : (number + 1) * recipe.batch_size] = np.load(file, allow_pickle=False)
    arrays: dict[str, npt.NDArray[np.generic]] = {"arr_0": whole}
    if recipe.classes:
        arrays["arr_1"] = np.resize(np.array(recipe.classes, dtype=np.int64), recipe.images)
    draft = folder / "samples.draft.npz"
    np.savez(draft, **arrays)  # type: ignore[arg-type]
    imsave(folder / GRID_FILE, _grid(whole[:GRID]))
    draft.replace(folder / SAMPLES_FILE)
    whole_file.unlink()
    for file in files:
        file.unlink()


def _grid(images: Pixels) -> Pixels:
    """Images side by side, about as many down as across."""
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    height, width = images.shape[1] + 1, images.shape[2] + 1
    sheet = np.full((rows * height, columns * width, 3), FRAME, dtype=np.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * height, place % columns * width
        sheet[top : top + height - 1, left : left + width - 1] = image
    return sheet
