"""Are pictures of shapes what their captions ask for? (`lina check`)

The verdicts are written in GenEval's format.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from lina_lab.data.scenes import BACKGROUND, COLORS, RELATIONS, SHAPES, TASKS, Metadata, Pixels
from lina_lab.evaluation.prompts.geneval import LAYOUT, read_layout
from lina_lab.evaluation.sampling import SAMPLES_FILE
from lina_lab.util.files import write_atomically

SMALLEST = 0.004
"""Share of the picture below which a patch of colour is a speck."""
FILLED = {"square": (0.9, 1.01), "circle": (0.68, 0.9), "triangle": (0.38, 0.68)}
"""Share of its bounding box that a shape fills: 1, pi / 4 and 1 / 2, with what pixels and noise make of them."""
CLUTTER = 0.15
"""Share of the picture that may be coloured without being a shape: two or three spoilt shapes, and not noise."""
COARSE = 48
"""Pixels of a side below which a picture is looked at in twice the size: borders are smooth, and lie between pixels."""
ASPECT = 1.35
"""Longer than this a patch is none of the shapes."""


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A connected patch of one colour."""

    shape: str | None
    """None: it is no shape that there is."""
    color: str
    column: float
    row: float


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is in a picture."""

    patches: list[Patch]
    clutter: float
    """Share of the picture that has a colour and is of no shape."""


def look(pixels: Pixels) -> Look:
    """The patches of colour in a picture, uint8 [H, W, 3], and what else is in it."""
    if min(pixels.shape[:2]) < COARSE:
        size = (2 * pixels.shape[1], 2 * pixels.shape[0])
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    nearest, found, clear = _colors(pixels), [], 0
    for number, color in enumerate(COLORS, start=1):
        labels, _ = ndimage.label(nearest == number)
        for label, box in enumerate(ndimage.find_objects(labels), start=1):
            mask = labels[box] == label
            if mask.sum() < SMALLEST * nearest.size:
                continue
            row, column = (float(c) for c in ndimage.center_of_mass(labels == label))
            found.append(Patch(shape=_shape(mask), color=color, column=column, row=row))
            clear += int(mask.sum()) if found[-1].shape else 0
    return Look(patches=found, clutter=float((nearest > 0).sum() - clear) / nearest.size)


def _colors(pixels: Pixels) -> npt.NDArray[np.intp]:
    """The number of each pixel's colour; 0 where the background is the larger part of it.

    A pixel at a border is a mixture of a colour with the background: it is held against mixtures, for half red on
    white is nearer to yellow than to red.
    """
    light = np.array(BACKGROUND, dtype=float)
    rays = light - np.array(list(COLORS.values()), dtype=float)
    shade = light - pixels.astype(float)
    shares = shade @ rays.T / (rays**2).sum(axis=1)
    apart = ((shade[..., None, :] - shares[..., None] * rays) ** 2).sum(axis=-1)
    best = apart.argmin(axis=-1)
    share = np.take_along_axis(shares, best[..., None], axis=-1)[..., 0]
    return np.where(share > 0.5, best + 1, 0)


def _shape(mask: npt.NDArray[np.bool_]) -> str | None:
    height, width = mask.shape
    if max(height, width) > ASPECT * min(height, width) + 2:
        return None
    filled = float(mask.mean())
    return next((shape for shape, (low, high) in FILLED.items() if low <= filled < high), None)


def judge(pixels: Pixels, metadata: Metadata) -> tuple[bool, str]:
    """Whether a picture is what is asked for, and what is wrong with it if not.

    As in GenEval: the things asked for must be there, in their number, colour and place; of counting, not one more. A
    picture that is mostly something else holds nothing, whatever shapes one could find in its noise.
    """
    seen = look(pixels)
    if seen.clutter > CLUTTER:
        return False, f"{seen.clutter:.0%} of the picture is coloured and no shape"
    patches = seen.patches
    groups: list[list[Patch]] = []
    for entry in metadata["include"]:
        shape, count, color = entry["class"], entry["count"], entry.get("color")
        alike = [patch for patch in patches if patch.shape == shape]
        group = [patch for patch in alike if color in (None, patch.color)]
        if len(group) < count:
            others = ", ".join(sorted(patch.color for patch in alike))
            return False, f"{len(group)} of {count} {f'{color} ' if color else ''}{shape}" + (
                f"; it is {others}" if color and alike else ""
            )
        if metadata["tag"] == "counting" and len(group) > count:
            return False, f"{len(group)} {shape}s in place of {count}"
        if "position" in entry:
            relation, other = entry["position"]
            if not any(_stands(relation, a, b) for a in group for b in groups[other]):
                return False, f"no {shape} {relation} a {metadata['include'][other]['class']}"
        groups.append(group)
    return True, ""


def _stands(relation: str, a: Patch, b: Patch) -> bool:
    if relation not in RELATIONS:
        raise ValueError(f"position {relation!r} is none of {', '.join(RELATIONS)}")
    across = relation in ("left of", "right of")
    gap = a.column - b.column if across else a.row - b.row
    return gap < 0 if relation in ("left of", "above") else gap > 0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether an image is what its caption asks for."""

    name: str
    """Of the image."""
    metadata: Metadata
    """What is asked for."""
    correct: bool
    reason: str
    """What is wrong with it."""


def judged(images: Iterable[Pixels], asked: Sequence[Metadata], names: Sequence[str] | None = None) -> list[Verdict]:
    """A verdict for each image, uint8 [H, W, 3]; their names are their numbers where none are given."""
    names = names or [f"{place:05d}" for place in range(len(asked))]
    found = []
    for pixels, metadata, name in zip(images, asked, names, strict=True):
        correct, reason = judge(pixels, metadata)
        found.append(Verdict(name=name, metadata=metadata, correct=correct, reason=reason))
    return found


def mean_over_tasks(verdicts: Sequence[Verdict]) -> float:
    """GenEval's score: the unweighted mean over kinds of captions of the share of images that are right."""
    by_task: dict[str, list[bool]] = {}
    for verdict in verdicts:
        by_task.setdefault(verdict.metadata["tag"], []).append(verdict.correct)
    return float(np.mean([np.mean(right) for right in by_task.values()]))


def write_results(path: Path, verdicts: Sequence[Verdict]) -> None:
    """A file in GenEval's format."""
    lines = []
    for verdict in verdicts:
        asked = verdict.metadata
        fields = {"filename": verdict.name, "tag": asked["tag"], "prompt": asked["prompt"], "correct": verdict.correct}
        lines.append(json.dumps({**fields, "reason": verdict.reason, "metadata": json.dumps(asked), "details": "{}"}))
    write_atomically(path, "\n".join(lines) + "\n")


def check(folder: Path, out: Path) -> tuple[int, int]:
    """Judge the pictures of a folder, write the verdicts, and count them.

    Args:
        folder: pictures, each with the metadata of what it is to hold.
        out: file of the verdicts.

    Returns:
        How many are right, and how many there are.

    Raises:
        ValueError: no pictures, or one without what it is to hold.
    """
    if (folder / SAMPLES_FILE).exists():
        raise ValueError(f"images={folder} is a folder of `lina sample`: give {folder / LAYOUT}, of its prompts")
    pairs = [(file, file.with_suffix(".json")) for file in sorted(folder.glob("*.png"))] or list(read_layout(folder))
    if not pairs:
        raise ValueError(f"images={folder} holds no pictures (.png), alone or in GenEval's layout")
    asked = [_read_metadata(metadata) for _, metadata in pairs]
    verdicts = judged((_read_picture(file) for file, _ in pairs), asked, [str(file) for file, _ in pairs])
    write_results(out, verdicts)
    return sum(verdict.correct for verdict in verdicts), len(pairs)


def _read_picture(file: Path) -> Pixels:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def _read_metadata(file: Path) -> Metadata:
    try:
        found: Metadata = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{file} is not there: it says what the picture is to hold") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    _check(file, found)
    return found


def _check(file: Path, found: Any) -> None:
    """Hold what a picture is to have against what there is.

    Raises:
        ValueError: a field is missing, or holds what this set does not have.
    """

    def need(right: bool, what: str) -> None:
        if not right:
            raise ValueError(f"{file}: it needs {what}")

    need(isinstance(found, dict) and found.get("tag") in TASKS, f"a tag of {', '.join(TASKS)}")
    need(isinstance(found.get("prompt"), str), "a prompt")
    entries = found.get("include")
    need(isinstance(entries, list) and bool(entries) and all(isinstance(e, dict) for e in entries), "a list include")
    for place, entry in enumerate(entries):
        need(entry.get("class") in SHAPES, f"classes of {', '.join(SHAPES)}")
        need(type(entry.get("count")) is int and entry["count"] > 0, "a count of each class")
        need(entry.get("color") in (None, *COLORS), f"colors of {', '.join(COLORS)}")
        if "position" in entry:
            position = entry["position"]
            right = isinstance(position, list) and len(position) == 2 and position[0] in RELATIONS
            need(right, f"a position of {', '.join(RELATIONS)} and the place of another entry")
            need(type(position[1]) is int and 0 <= position[1] < place, "a position with the place of an entry before")
