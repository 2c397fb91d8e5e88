"""A cell's metrics over training in its own folder, from which a tracking store that lost them gets them again."""

import json
from collections.abc import Iterable
from pathlib import Path

from lina_lab.records.files import CURVE_FILE
from lina_lab.util.files import append_lines

Point = tuple[str, float, int, int]
"""Name, value, step, milliseconds since 1970."""


def lines_of(points: Iterable[Point]) -> str:
    """Points as lines of JSON."""
    return "".join(json.dumps(point) + "\n" for point in points)


def points_of(text: str) -> list[Point]:
    """Points from lines of JSON.

    Raises:
        ValueError, TypeError: a line is not a point.
    """
    points: list[Point] = []
    for line in text.split("\n")[:-1]:
        name, value, step, now = json.loads(line)
        points.append((str(name), float(value), int(step), int(now)))
    return points


def append_points(folder: Path, points: Iterable[Point]) -> None:
    """Add points to the curve in a cell's folder."""
    append_lines(folder / CURVE_FILE, lines_of(points))


def read_curve(folder: Path) -> list[Point] | None:
    """The curve in a cell's folder, each metric's step once; None if there is none, or it cannot be read.

    Steps that were repeated after a checkpoint are in the file twice; the first counts, as in the tracking store. A
    last line without an end is left out: a process died while it wrote it.
    """
    try:
        points = points_of((folder / CURVE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return None
    first = {(name, step): (name, value, step, now) for name, value, step, now in reversed(points)}
    return sorted(first.values(), key=lambda point: point[2])
