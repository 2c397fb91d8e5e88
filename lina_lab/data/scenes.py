"""A captioned set without end: coloured shapes, drawn as a pure function of (seed, index), in GenEval's six kinds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pydantic.dataclasses import dataclass

from lina_lab.util.seeds import derive

Pixels = npt.NDArray[np.uint8]
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""GenEval's kinds of prompts (Ghosh et al. 2023)."""
SHAPES = ("circle", "square", "triangle")
COLORS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (40, 80, 220), "yellow": (240, 200, 30)}
BACKGROUND = (255, 255, 255)
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = ("zero", "one", "two", "three", "four")
PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)
CELLS = 3
"""The picture is a grid of so many cells a side, with at most one shape in each."""
RADIUS = (0.32, 0.4)
"""Of a shape, as a share of its cell's side."""
MARGIN = 0.07
"""Between a shape and the border of its cell, likewise: neighbours do not touch."""
FINER = 4
"""Pixels are means of so many a side."""
Metadata = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Item:
    """A shape in the picture."""

    shape: str
    color: str
    column: float
    """Of its middle, as a share of the picture's width."""
    row: float
    radius: float


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture, its caption, and what the caption asks for."""

    items: tuple[Item, ...]
    caption: str
    metadata: Metadata
    """`tag`, `prompt` and `include`, as GenEval has them: `class`, `count`, and where asked for `color`, `position`."""

    @property
    def long_caption(self) -> str:
        """All that is in the picture: each shape with its colour and place."""
        return ", ".join(
            f"a {i.color} {i.shape} {PLACES[int(i.row * CELLS)][int(i.column * CELLS)]}" for i in self.items
        )


def scene(seed: int, index: int) -> Scene:
    """The scene of a number, the same for ever; kinds take turns."""
    generator = np.random.default_rng(derive(seed, "shapes", index))
    task = TASKS[index % len(TASKS)]
    first, second = (str(name) for name in generator.choice(SHAPES, 2, replace=False))
    colors = [str(name) for name in generator.choice(list(COLORS), 2, replace=False)]
    wanted: list[tuple[str, str | None]]
    if task == "two_object":
        wanted = [(first, None), (second, None)]
        caption = f"a {first} and a {second}"
    elif task == "counting":
        count = int(generator.integers(2, len(NUMBERS)))
        wanted, caption = [(first, None)] * count, f"{NUMBERS[count]} {first}s"
    elif task == "colors":
        wanted, caption = [(first, colors[0])], f"a {colors[0]} {first}"
    elif task == "position":
        wanted, caption = [(first, None), (second, None)], ""
    elif task == "color_attr":
        wanted = [(first, colors[0]), (second, colors[1])]
        caption = f"a {colors[0]} {first} and a {colors[1]} {second}"
    else:
        wanted, caption = [(first, None)], f"a {first}"
    relation = str(generator.choice(RELATIONS)) if task == "position" else None
    if relation is not None:
        caption = f"a {first} {relation} a {second}"
    items = _placed(wanted, relation, generator)
    return Scene(items=items, caption=caption, metadata=_metadata(task, caption, wanted, relation))


def _placed(
    wanted: Sequence[tuple[str, str | None]], relation: str | None, generator: np.random.Generator
) -> tuple[Item, ...]:
    """Shapes in cells of their own; the first one where the relation to the second one has it."""
    while True:
        cells = generator.choice(CELLS**2, len(wanted), replace=False)
        places = [(int(cell) % CELLS, int(cell) // CELLS) for cell in cells]
        if relation is None or _holds(relation, places[0], places[1]):
            break
    items = []
    for (shape, color), (column, row) in zip(wanted, places, strict=True):
        radius = generator.uniform(*RADIUS)
        slack = 0.5 - radius - MARGIN
        middle = generator.uniform(-slack, slack, 2) + 0.5
        items.append(
            Item(
                shape=shape,
                color=color or str(generator.choice(list(COLORS))),
                column=(column + float(middle[0])) / CELLS,
                row=(row + float(middle[1])) / CELLS,
                radius=radius / CELLS,
            )
        )
    return tuple(items)


def _holds(relation: str, a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether a, (column, row), stands so to b."""
    return {
        "left of": a[0] < b[0],
        "right of": a[0] > b[0],
        "above": a[1] < b[1],
        "below": a[1] > b[1],
    }[relation]


def _metadata(task: str, caption: str, wanted: Sequence[tuple[str, str | None]], relation: str | None) -> Metadata:
    include: list[dict[str, Any]] = []
    for shape, color in dict.fromkeys(wanted):
        entry: dict[str, Any] = {"class": shape, "count": wanted.count((shape, color))}
        include.append(entry | ({} if color is None else {"color": color}))
    if relation is not None:
        # GenEval: the second thing is said to stand so to the first one of the list.
        include = [include[1], {**include[0], "position": [relation, 0]}]
    return {"tag": task, "prompt": caption, "include": include}


def draw(made: Scene, resolution: int) -> Pixels:
    """The picture, uint8 [resolution, resolution, 3]."""
    side = resolution * FINER
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
