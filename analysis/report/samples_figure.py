"""Generated images of the variants side by side, above held-out ones."""

import hashlib
from collections.abc import Sequence
from textwrap import fill, shorten

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lina_lab.config.datasets import DATA_SETS
from lina_lab.records.samples import Pixels

from ..load.runs import StudyRuns
from ..load.samples import CellSheet

COLUMNS = 10
"""Most images side by side."""
FRAME, PAPER = 217, 255
"""Shades of the lines between images and of the space between variants."""
SPACE = 0.25
"""Space between variants, in heights of an image."""
WIDTH, LABELS = 7.2, 1.5
"""Inches of the figure, and of it for the names of the variants."""
CHARACTERS = 22
"""Characters of a line of a variant's name."""
REAL = "held-out images"


def samples_figures(runs: StudyRuns) -> dict[str, tuple[Figure, pd.DataFrame]]:
    """Draw a figure for each task and data set of the study: name -> figure, and what it shows."""
    groups: dict[object, list[CellSheet]] = {}
    for cell in runs.samples.sheets:
        # Cells that have other held-out images are not compared with these.
        real = (cell.sheet.titles, cell.sheet.real.shape, cell.sheet.real.tobytes())
        groups.setdefault((cell.task, cell.data, real), []).append(cell)
    names = [f"samples-{number}" if number > 1 else "samples" for number in range(1, len(groups) + 1)]
    return {name: _figure(cells, len(groups) > 1) for name, cells in zip(names, groups.values(), strict=True)}


def rows_of(variants: int) -> int:
    """Return how many rows of images each of so many variants gets."""
    return 3 if variants <= 3 else 2 if variants <= 6 else 1


def block(images: Pixels, rows: int) -> Pixels:
    """Arrange images of the same classes as a sheet [height, width, 3]: classes side by side, samples below each other.

    With less than half of COLUMNS classes, each has several samples side by side.

    Args:
        images: uint8 [classes, samples, H, W, 3 or 1].
        rows: most rows.
    """
    classes, beside = _layout(images)
    rows = min(rows, images.shape[1] // beside)
    height, width = images.shape[2] + 1, images.shape[3] + 1
    sheet = np.full((rows * height + 1, classes * beside * width + 1, 3), FRAME, dtype=np.uint8)
    for row in range(rows):
        for column in range(classes * beside):
            top, left = row * height + 1, column * width + 1
            image = images[column // beside, row * beside + column % beside]
            sheet[top : top + height - 1, left : left + width - 1] = image
    return sheet


def composed(cells: Sequence[CellSheet]) -> tuple[Pixels, list[float]]:
    """Put the sheets of several variants below each other, and the first one's held-out images below all.

    Returns:
        The picture uint8 [height, width, 3], and the vertical center of each variant's block and of the held-out
        images' row, in pixels.
    """
    rows, first = rows_of(len(cells)), cells[0].sheet
    blocks = [*(block(cell.sheet.images, rows) for cell in cells), block(first.real, 1)]
    space = np.full((max(2, round(SPACE * first.images.shape[2])), blocks[0].shape[1], 3), PAPER, dtype=np.uint8)
    parts: list[Pixels] = []
    centers, top = [], 0
    for each in blocks:
        if parts:
            parts.append(space)
            top += len(space)
        parts.append(each)
        centers.append(top + (len(each) - 1) / 2)
        top += len(each)
    return np.concatenate(parts), centers


def _layout(images: Pixels) -> tuple[int, int]:
    """Return the number of classes that are shown, and of samples of each side by side."""
    classes = min(len(images), COLUMNS)
    return classes, max(1, min(images.shape[1], COLUMNS // classes))


def _figure(cells: Sequence[CellSheet], several: bool) -> tuple[Figure, pd.DataFrame]:
    picture, centers = composed(cells)
    first = cells[0]
    classes, _ = _layout(first.sheet.images)
    figure, axes = plt.subplots(figsize=(WIDTH, (WIDTH - LABELS) * picture.shape[0] / picture.shape[1] + 0.6))
    axes.imshow(picture, interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    seeds = {cell.seed for cell in cells}
    names = [cell.variant if len(seeds) == 1 else f"{cell.variant} (seed {cell.seed})" for cell in cells]
    axes.set_yticks(centers, [_wrapped(name) for name in [*names, REAL]], fontsize=8)
    step = picture.shape[1] / classes
    titles = [fill(shorten(title, 40, placeholder="…"), 12) for title in first.sheet.titles[:classes]]
    axes.set_xticks([(index + 0.5) * step for index in range(classes)], titles, fontsize=7 if classes < COLUMNS else 8)
    axes.set_xlabel("\n".join(_notes(cells, classes, several)), fontsize=7, loc="left")
    return figure, _numbers(cells)


def _wrapped(name: str) -> str:
    """Break a variant's name between its parts, and a part that is too long between its words."""
    lines: list[str] = []
    for part in name.split(", "):
        if lines and len(lines[-1]) + len(part) + 2 <= CHARACTERS:
            lines[-1] += f", {part}"
        else:
            lines = [*lines[:-1], f"{lines[-1]},"] if lines else []
            lines += fill(part, CHARACTERS).split("\n")
    return "\n".join(lines)


def _notes(cells: Sequence[CellSheet], classes: int, several: bool) -> list[str]:
    """Return what stands below the picture: which cells it shows, and the licence where it asks for that."""
    first, entry = cells[0], DATA_SETS.get(cells[0].data)
    parts = [f"size {first.size}", *([f"seed {first.seed}"] if len({cell.seed for cell in cells}) == 1 else [])]
    parts = [first.task, first.data, *parts] if several else parts
    if classes < len(first.sheet.titles):
        parts.append(f"the first {classes} classes")
    notes = [", ".join(parts)]
    if entry is not None and entry.attribution is not None and entry.attribution.notice:
        notes += fill(f"Data: {entry.attribution}", 105, break_on_hyphens=False).split("\n")
    return notes


def _numbers(cells: Sequence[CellSheet]) -> pd.DataFrame:
    """Return a row for each block of the picture: its cell, and a hash of its images."""
    rows = [
        {"variant": cell.variant, "size": cell.size, "seed": cell.seed, "cell": cell.cell, "images": cell.sheet.images}
        for cell in cells
    ]
    rows.append({"variant": REAL, "size": None, "seed": None, "cell": None, "images": cells[0].sheet.real})
    hashes = [hashlib.sha256(np.ascontiguousarray(row.pop("images")).tobytes()).hexdigest() for row in rows]
    return pd.DataFrame(rows).assign(sha256=hashes)
