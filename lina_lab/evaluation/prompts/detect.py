"""A detector of colored shapes: what is in an image of `lina_lab.data.scenes`, or of a model that learned from them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from lina_lab.data.pixels import Pixels
from lina_lab.data.scenes import BACKGROUND, COLORS

MIN_AREA = 0.004
"""Share of the image below which a patch of color is a speck."""
FILLED = {"square": (0.9, 1.01), "circle": (0.68, 0.9), "triangle": (0.38, 0.68)}
"""Share of its bounding box that a shape fills: 1, pi / 4 and 1 / 2, with a tolerance for pixels and noise."""
MIN_SIDE = 48
"""Images of fewer pixels a side are enlarged twice: their borders are smooth, and lie between pixels."""
MAX_ASPECT = 1.35
"""A patch that is longer than this is no shape."""


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A connected patch of one color."""

    shape: str | None
    """None: it is none of the shapes."""
    color: str
    column: float
    row: float


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What is in an image."""

    patches: list[Patch]
    clutter: float
    """Share of the image that has a color and belongs to no shape."""


def detect(pixels: Pixels) -> Detection:
    """The patches of color in an image, uint8 [H, W, 3], and how much else is in it."""
    if min(pixels.shape[:2]) < MIN_SIDE:
        size = (2 * pixels.shape[1], 2 * pixels.shape[0])
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    nearest, found, clear = _colors(pixels), [], 0
    for number, color in enumerate(COLORS, start=1):
        labels, _ = ndimage.label(nearest == number)
        for label, box in enumerate(ndimage.find_objects(labels), start=1):
            mask = labels[box] == label
            if mask.sum() < MIN_AREA * nearest.size:
                continue
            row, column = (float(c) for c in ndimage.center_of_mass(labels == label))
            found.append(Patch(shape=_shape(mask), color=color, column=column, row=row))
            clear += int(mask.sum()) if found[-1].shape else 0
    return Detection(patches=found, clutter=float((nearest > 0).sum() - clear) / nearest.size)


def _colors(pixels: Pixels) -> npt.NDArray[np.intp]:
    """The number of each pixel's color; 0 where the background is the larger part of it.

    A pixel at a border is a mixture of a color with the background, so it is compared with such mixtures: half red on
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
    if max(height, width) > MAX_ASPECT * min(height, width) + 2:
        return None
    filled = float(mask.mean())
    return next((shape for shape, (low, high) in FILLED.items() if low <= filled < high), None)
