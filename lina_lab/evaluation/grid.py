"""Images side by side in one picture."""

import numpy as np

from lina_lab.data.pixels import Pixels

FRAME = 217
"""Shade of the lines between images: on a white background, white lines would not be seen."""


def tile(images: Pixels, columns: int, *, margin: tuple[int, int] = (0, 1)) -> Pixels:
    """Images row by row in one picture, uint8 [H', W', 3]; what is left over has the frame's shade.

    Args:
        images: uint8 [n, H, W, 3].
        columns: images side by side.
        margin: pixels of the frame before and after each image, in both directions.
    """
    rows, (before, after) = -(-len(images) // columns), margin
    height, width = (before + side + after for side in images.shape[1:3])
    sheet = np.full((rows * height, columns * width, 3), FRAME, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * height + before, index % columns * width + before
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet
