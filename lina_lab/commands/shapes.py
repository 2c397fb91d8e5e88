"""Write captioned pictures of shapes as files, to look at or to encode.

  lina shapes out=FOLDER images=1000 resolution=64

Writes pictures with captions as `lina cache` reads them (`x.txt`, and `x.long.txt`, which describes the whole
picture), and what each caption asks for as GenEval's metadata (`x.json`; all of it in `prompts.jsonl`, for
`lina sample`). `lina check` says whether a picture shows what its caption asks for.
"""

import json
from pathlib import Path

from pydantic.dataclasses import dataclass

from lina_lab.config import CHECKS
from lina_lab.config.checks import NonNegativeInt, PositiveInt
from lina_lab.config.grammar import Command


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class ShapesConfig:
    """Fields of `lina shapes`."""

    out: str
    """Folder of the pictures."""
    images: PositiveInt = 1000
    """Number of pictures."""
    resolution: PositiveInt = 64
    """Height and width in pixels; shapes are easy to tell apart from 64 on."""
    seed: NonNegativeInt = 0
    """Seed of the set: the same seed gives the same pictures."""


def run(config: ShapesConfig) -> int:
    """Write the pictures, their captions and their metadata, and print where they are; returns 0."""
    from PIL import Image

    from lina_lab.data.scenes import render, scene

    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    prompts = []
    for index in range(config.images):
        made, stem = scene(config.seed, index), folder / f"{index:07d}"
        Image.fromarray(render(made, config.resolution)).save(stem.with_suffix(".png"))
        stem.with_suffix(".txt").write_text(made.caption + "\n")
        stem.with_suffix(".long.txt").write_text(made.long_caption + "\n")
        prompts.append(json.dumps(made.metadata) + "\n")
        stem.with_suffix(".json").write_text(prompts[-1])
    (folder / "prompts.jsonl").write_text("".join(prompts))
    print(f"{config.images:,} pictures: {config.out}")
    return 0


COMMAND = Command(config=ShapesConfig, run=run, doc=__doc__)
