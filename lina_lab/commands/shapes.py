"""Captioned shapes as files, for those who want to look at them, or to encode them (`lina_lab.data.scenes`).

`lina shapes out=DIR images=N [resolution=64]` writes pictures with captions beside them, as
`lina cache` takes them (`x.txt`, and `x.long.txt` with all that is in the picture), and what each caption asks
for (`x.json`, GenEval's metadata; all together in `prompts.jsonl`, for `lina sample`).
`lina check` says whether a picture is what its caption asks for.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from pydantic.dataclasses import dataclass

from lina_lab.commands.grammar import command
from lina_lab.config import CHECKS
from lina_lab.config.checks import NonNegativeInt, PositiveInt
from lina_lab.data.scenes import draw, scene


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class ShapesConfig:
    """What the command takes."""

    out: str
    """Folder of the pictures."""
    images: PositiveInt = 1000
    """How many."""
    resolution: PositiveInt = 64
    """Pixels of a side; from 64 on the shapes can be told apart."""
    seed: NonNegativeInt = 0
    """Of the set."""


def write(config: ShapesConfig) -> None:
    """Write pictures, captions, and what they ask for."""
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    asked = []
    for index in range(config.images):
        made, stem = scene(config.seed, index), folder / f"{index:07d}"
        Image.fromarray(draw(made, config.resolution)).save(stem.with_suffix(".png"))
        stem.with_suffix(".txt").write_text(made.caption + "\n")
        stem.with_suffix(".long.txt").write_text(made.long_caption + "\n")
        stem.with_suffix(".json").write_text(json.dumps(made.metadata) + "\n")
        asked.append(json.dumps(made.metadata))
    (folder / "prompts.jsonl").write_text("\n".join(asked) + "\n")


def run(config: ShapesConfig) -> int:
    """Write the pictures and say where; 0."""
    write(config)
    print(f"{config.images:,} pictures: {config.out}")
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run the command; 0, or 2 with one sentence."""
    return command(run, ShapesConfig, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
