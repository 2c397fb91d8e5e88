"""An unlimited synthetic captioned data set: colored shapes from (seed, index) alone, in GenEval's six tasks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pydantic.dataclasses import dataclass

from lina_lab.data.pixels import Pixels
from lina_lab.util.seeds import derive

Metadata = dict[str, Any]
"""What an image must show, as GenEval has it: `tag` (the task), `prompt`, and `include`, a list of objects."""
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""GenEval's tasks (Ghosh et al. 2023)."""
SHAPES = ("circle", "square", "triangle")
COLORS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (40, 80, 220), "yellow": (240, 200, 30)}
BACKGROUND = (255, 255, 255)
RELATIONS = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}
"""Relation of a to b -> the coordinate (0: column, 1: row), and the sign of b's minus a's."""
NUMBERS = ("zero", "one", "two", "three", "four")
REGIONS = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)
"""Names of the cells in long captions, row by row."""
CELLS = 3
"""The image is a grid of CELLS x CELLS cells, with at most one shape in each."""
RADIUS = (0.32, 0.4)
"""Range of a shape's radius, as a share of its cell's side."""
MARGIN = 0.07
"""Least distance between a shape and the border of its cell, as a share of its side: neighbors do not touch."""
SUPERSAMPLING = 4
"""Images are rendered this many times larger, and averaged down."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A shape in the image."""

    shape: str
    color: str
    column: float
    """Its center from the left, as a share of the image's width."""
    row: float
    """Its center from the top, as a share of the image's height."""
    radius: float
    """As a share of the image's side."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An image, its caption, and what the caption asks for."""

    items: tuple[Item, ...]
    caption: str
    metadata: Metadata
    """Objects have `class` and `count`, and `color` or `position` where the caption names them."""

    @property
    def long_caption(self) -> str:
        """A caption of the whole image: each shape with its color and its region."""
        return ", ".join(
            f"a {i.color} {i.shape} {REGIONS[int(i.row * CELLS)][int(i.column * CELLS)]}" for i in self.items
        )


def scene(seed: int, index: int) -> Scene:
    """The scene with an index: always the same for a seed. The tasks take turns."""
    generator = np.random.default_rng(derive(seed, "shapes", index))
    task = TASKS[index % len(TASKS)]
    first, second = (str(name) for name in generator.choice(SHAPES, 2, replace=False))
    colors = [str(name) for name in generator.choice(list(COLORS), 2, replace=False)]
    count = int(generator.integers(2, len(NUMBERS))) if task == "counting" else 1
    relation = str(generator.choice(list(RELATIONS))) if task == "position" else None
    shapes: list[tuple[str, str | None]] = [(first, None), (second, None)]
    colored: list[tuple[str, str | None]] = [(first, colors[0]), (second, colors[1])]
    required, caption = {
        "single_object": (shapes[:1], f"a {first}"),
        "two_object": (shapes, f"a {first} and a {second}"),
        "counting": (shapes[:1] * count, f"{NUMBERS[count]} {first}s"),
        "colors": (colored[:1], f"a {colors[0]} {first}"),
        "position": (shapes, f"a {first} {relation} a {second}"),
        "color_attr": (colored, f"a {colors[0]} {first} and a {colors[1]} {second}"),
    }[task]
    items = _placed(required, relation, generator)
    return Scene(items=items, caption=caption, metadata=_metadata(task, caption, required, relation))


def _placed(
    required: Sequence[tuple[str, str | None]], relation: str | None, generator: np.random.Generator
) -> tuple[Item, ...]:
    """The shapes, each in a cell of its own, with the first one in the relation to the second one."""
    while True:
        cells = generator.choice(CELLS**2, len(required), replace=False)
        corners = [(int(cell) % CELLS, int(cell) // CELLS) for cell in cells]
        if relation is None or holds(relation, corners[0], corners[1]):
            break
    items = []
    for (shape, color), (column, row) in zip(required, corners, strict=True):
        radius = generator.uniform(*RADIUS)
        slack = 0.5 - radius - MARGIN
        center = generator.uniform(-slack, slack, 2) + 0.5
        items.append(
            Item(
                shape=shape,
                color=color or str(generator.choice(list(COLORS))),
                column=(column + float(center[0])) / CELLS,
                row=(row + float(center[1])) / CELLS,
                radius=radius / CELLS,
            )
        )
    return tuple(items)


def holds(relation: str, a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether a, (column, row), is in the relation to b."""
    axis, sign = RELATIONS[relation]
    return sign * (b[axis] - a[axis]) > 0


def _metadata(task: str, caption: str, required: Sequence[tuple[str, str | None]], relation: str | None) -> Metadata:
    include: list[dict[str, Any]] = []
    for shape, color in dict.fromkeys(required):
        entry: dict[str, Any] = {"class": shape, "count": required.count((shape, color))}
        include.append(entry | ({} if color is None else {"color": color}))
    if relation is not None:
        # GenEval: the position of the second object is relative to the first one of the list.
        include = [include[1], {**include[0], "position": [relation, 0]}]
    return {"tag": task, "prompt": caption, "include": include}


def render(made: Scene, resolution: int) -> Pixels:
    """The image of a scene, uint8 [resolution, resolution, 3]."""
    side = resolution * SUPERSAMPLING
    picture = Image.new("RGB", (side, side), BACKGROUND)
    pen = ImageDraw.Draw(picture)
    for item in made.items:
        x, y, r = (value * side for value in (item.column, item.row, item.radius))
        box = (x - r, y - r, x + r, y + r)
        if item.shape == "circle":
            pen.ellipse(box, fill=COLORS[item.color])
        elif item.shape == "square":
            pen.rectangle(box, fill=COLORS[item.color])
        else:
            pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=COLORS[item.color])
    return np.asarray(picture.resize((resolution, resolution), Image.Resampling.BOX))
