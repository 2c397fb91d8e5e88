"""Images for prompts in the layout of GenEval's tool: a numbered folder for each prompt.

`00000/metadata.jsonl` says what is asked for, `00000/samples/0000.png` and on are the images (Ghosh et al. 2023).
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Metadata = dict[str, Any]
METADATA, SAMPLES = "metadata.jsonl", "samples"
LAYOUT = "geneval"
"""Folder of such images beside `lina_lab.commands.sample`'s."""


def read_prompts(path: Path) -> list[Metadata]:
    """Prompts of a file: GenEval's `evaluation_metadata.jsonl`, or a caption a line.

    Returns:
        Each with `prompt`; a caption alone has nothing else.

    Raises:
        ValueError: there is no such file, no prompt in it, or a line that is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompts={path} cannot be read: {error}") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise ValueError(f"prompts={path} holds no prompts")
    if path.suffix not in (".jsonl", ".json"):
        return [{"prompt": line} for _, line in numbered]
    return [_prompt(path, number, line) for number, line in numbered]


def _prompt(path: Path, number: int, line: str) -> Metadata:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"prompts={path}, line {number}: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("prompt"), str):
        raise ValueError(f"prompts={path}, line {number}: it has no prompt")
    return found


def write_layout(folder: Path, images: Iterable[Pixels], prompts: list[Metadata]) -> None:
    """Write images that are of the prompts in turn, in portions of uint8 [n, H, W, 3]; those that are there stay."""
    for number, metadata in enumerate(prompts):
        own = folder / f"{number:05d}"
        (own / SAMPLES).mkdir(parents=True, exist_ok=True)
        (own / METADATA).write_text(json.dumps(metadata) + "\n")
    for place, image in enumerate(image for portion in images for image in portion):
        turn, number = divmod(place, len(prompts))
        path = folder / f"{number:05d}" / SAMPLES / f"{turn:04d}.png"
        if not path.exists():
            draft = path.with_suffix(".draft")
            Image.fromarray(image).save(draft, format="png")
            draft.replace(path)


def read_layout(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Each image's file, and the file of what it is to hold."""
    for metadata in sorted(folder.glob(f"*/{METADATA}")):
        for file in sorted((metadata.parent / SAMPLES).glob("*.png")):
            yield file, metadata
