"""Images for prompts in GenEval's layout, and verdicts in its format (Ghosh et al. 2023).

The layout is a numbered folder for each prompt: `00000/metadata.jsonl` says what the images must show, and
`00000/samples/0000.png` and so on are the images.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from lina_lab.data.pixels import Pixels
from lina_lab.data.scenes import Metadata
from lina_lab.evaluation.prompts.judge import Verdict
from lina_lab.util.files import atomic, write_atomically

METADATA, SAMPLES = "metadata.jsonl", "samples"
LAYOUT = "geneval"
"""Folder of such images in a folder of `lina sample`."""


def read_prompts(path: Path) -> list[Metadata]:
    """Prompts of a file: GenEval's `evaluation_metadata.jsonl`, or one caption a line.

    Returns:
        Metadata with `prompt`; that of a caption alone has nothing else.

    Raises:
        ValueError: there is no such file, no prompt in it, or a line that is none.
    """
    try:
        # Editors on Windows put a mark of the byte order first, which is no part of the text.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
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
    """Write images of the prompts by turns; files that exist already are kept.

    Args:
        folder: where to write.
        images: batches, uint8 [n, H, W, 3].
        prompts: metadata, by turns.
    """
    for number, metadata in enumerate(prompts):
        own = folder / f"{number:05d}"
        (own / SAMPLES).mkdir(parents=True, exist_ok=True)
        (own / METADATA).write_text(json.dumps(metadata) + "\n")
    for index, image in enumerate(image for batch in images for image in batch):
        repeat, number = divmod(index, len(prompts))
        path = folder / f"{number:05d}" / SAMPLES / f"{repeat:04d}.png"
        if not path.exists():
            with atomic(path) as draft:
                Image.fromarray(image).save(draft, format="png")


def read_layout(folder: Path) -> Iterator[tuple[Path, Path]]:
    """The file of each image, and the file of what it must show."""
    for metadata in sorted(folder.glob(f"*/{METADATA}")):
        for file in sorted((metadata.parent / SAMPLES).glob("*.png")):
            yield file, metadata


def write_results(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Write verdicts as GenEval's tool writes its own, a JSON object a line."""
    lines = []
    for verdict in verdicts:
        asked = verdict.metadata
        fields = {"filename": verdict.name, "tag": asked["tag"], "prompt": asked["prompt"], "correct": verdict.correct}
        lines.append(json.dumps({**fields, "reason": verdict.reason, "metadata": json.dumps(asked), "details": "{}"}))
    write_atomically(path, "\n".join(lines) + "\n")
