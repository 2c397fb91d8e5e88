"""Images of shapes in a folder, judged by their metadata (`lina check`)."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from lina_lab.data.scenes import COLORS, RELATIONS, SHAPES, TASKS, Metadata
from lina_lab.data.shards.samples import Stored
from lina_lab.evaluation.prompts.geneval import LAYOUT, read_layout, write_results
from lina_lab.evaluation.prompts.judge import judge_all
from lina_lab.evaluation.sampling import SAMPLES_FILE


def check(folder: Path, out: Path) -> tuple[int, int]:
    """Judge the images of a folder, write the verdicts in GenEval's format, and count them.

    Args:
        folder: images, each with metadata: `x.png` beside `x.json`, or in GenEval's layout.
        out: file of the verdicts.

    Returns:
        How many are right, and how many there are.

    Raises:
        ValueError: no images, or one without metadata that can be read.
    """
    if (folder / SAMPLES_FILE).exists():
        raise ValueError(f"images={folder} is a folder of `lina sample`: give {folder / LAYOUT}, of its prompts")
    pairs = [(file, file.with_suffix(".json")) for file in sorted(folder.glob("*.png"))] or list(read_layout(folder))
    if not pairs:
        raise ValueError(f"images={folder} holds no pictures (.png), alone or in GenEval's layout")
    prompts = [_read_metadata(metadata) for _, metadata in pairs]
    images = (np.asarray(Stored(str(file), file).picture()) for file, _ in pairs)
    verdicts = judge_all(images, prompts, [str(file) for file, _ in pairs])
    write_results(out, verdicts)
    return sum(verdict.correct for verdict in verdicts), len(pairs)


def _read_metadata(file: Path) -> Metadata:
    try:
        found: Metadata = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{file} is not there: it says what the picture must show") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    _validate(file, found)
    return found


def _validate(file: Path, found: Any) -> None:
    """Check that metadata asks only for what this data set has.

    Raises:
        ValueError: a field is missing, or holds what there is not.
    """

    def need(right: bool, what: str) -> None:
        if not right:
            raise ValueError(f"{file}: it needs {what}")

    need(isinstance(found, dict) and found.get("tag") in TASKS, f"a tag of {', '.join(TASKS)}")
    need(isinstance(found.get("prompt"), str), "a prompt")
    entries = found.get("include")
    need(isinstance(entries, list) and bool(entries) and all(isinstance(e, dict) for e in entries), "a list include")
    for index, entry in enumerate(entries):
        need(entry.get("class") in SHAPES, f"classes of {', '.join(SHAPES)}")
        need(type(entry.get("count")) is int and entry["count"] > 0, "a count of each class")
        need(entry.get("color") in (None, *COLORS), f"colors of {', '.join(COLORS)}")
        if "position" in entry:
            position = entry["position"]
            right = isinstance(position, list) and len(position) == 2 and position[0] in (*RELATIONS,)
            need(right, f"a position of {', '.join(RELATIONS)} and the index of another entry")
            need(type(position[1]) is int and 0 <= position[1] < index, "a position with the index of an earlier entry")
