"""Result files of the official GenEval tool.

Each line is an image: its prompt, the prompt's task (`tag`) and whether a detector found what the prompt asks for
(`correct`).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .errors import ResultsError

TASKS = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}
"""Task -> number of prompts; 553 in all."""
IMAGES = 4
"""Images per prompt."""
FIELDS: dict[str, type] = {"filename": str, "tag": str, "prompt": str, "correct": bool}


@dataclass(frozen=True, kw_only=True)
class Results:
    """A result file."""

    name: str
    images: pd.DataFrame
    """A row for each image: `filename`, `tag`, `prompt`, `correct`."""
    missing: str
    """What is missing; empty for a complete file."""


def read_results(path: Path, *, partial: bool = False) -> Results:
    """Read a result file.

    Raises:
        ResultsError: a line is damaged or an image is listed twice, or the file is incomplete and `partial` is not set.
    """
    try:
        # A text may hold other separators of lines, such as U+2028; an editor may have put a byte order mark first.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path} cannot be read: {error}") from error
    rows = [_row(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    images = pd.DataFrame(rows, columns=[*FIELDS])
    if images.empty:
        raise ResultsError(f"{path} has no images")
    twice = images[images["filename"].duplicated()]
    if len(twice):
        raise ResultsError(f"{path}: {len(twice)} images are listed twice, first {twice.iloc[0]['filename']}")
    missing = _missing(images)
    if missing and not partial:
        raise ResultsError(f"{path} is incomplete: {missing}; partial=true accepts it and marks the result")
    return Results(name=str(path), images=images, missing=missing)


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        raise ResultsError(
            f"{path}, line {number} is not JSON ({error.msg}): the file is cut off or damaged"
        ) from error
    if not isinstance(data, dict):
        raise ResultsError(f"{path}, line {number} is not an object")
    for name, kind in FIELDS.items():
        if not isinstance(data.get(name), kind):
            raise ResultsError(f"{path}, line {number}: {name}={data.get(name)!r} is not a {kind.__name__}")
    if data["tag"] not in TASKS:
        raise ResultsError(f"{path}, line {number}: tag={data['tag']!r} is not one of {', '.join(TASKS)}")
    return {name: data[name] for name in FIELDS}


def _missing(images: pd.DataFrame) -> str:
    """Say which prompts and images are missing, or too many."""
    parts = []
    for task, wanted in TASKS.items():
        counts = images[images["tag"] == task].groupby("prompt").size()
        # The official list has some prompts twice in a task: their images then come in multiples.
        prompts = int(np.ceil(counts / IMAGES).sum())
        if prompts != wanted:
            parts.append(f"{task} has {prompts} of {wanted} prompts")
        short = int((counts % IMAGES != 0).sum())
        if short:
            parts.append(f"{task} has {short} prompts without {IMAGES} images each")
    whole = IMAGES * sum(TASKS.values())
    if parts and len(images) != whole:
        parts.append(f"{len(images):,} of {whole:,} images")
    return "; ".join(parts)
