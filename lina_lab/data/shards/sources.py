"""Images to encode: in a folder for each class, with caption files, or in WebDataset shards."""

import io
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lina_lab.data.shards.source_files import PICTURE_ERRORS, files_of, in_folder
from lina_lab.data.shards.source_tars import in_tars


class Source(Protocol):
    """The images to encode, in the order in which shards hold them."""

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each image; together they identify the set."""
        ...

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes; None: there are captions instead."""
        ...

    @property
    def long_captions(self) -> bool:
        """Whether each image has a long caption, too."""
        ...

    def data(self, index: int) -> bytes:
        """The contents of an image's file."""
        ...

    def condition(self, index: int) -> dict[str, Any]:
        """Members of an image's sample beside the image: its class, or its captions."""
        ...


def find_images(folder: Path, out: Path | None = None) -> Source:
    """Find the images of a folder.

    Args:
        folder: of the images.
        out: a folder that may lie in it, and is left out.

    Raises:
        ValueError: there are no images, some have captions and others not, or a shard is damaged.
    """
    tars, files = files_of(folder, out)
    return in_tars(folder, tars) if tars else in_folder(folder, files)


def load_image(source: Source, index: int, resolution: int) -> Tensor:
    """An image in -1..1, float32 [3, resolution, resolution]: scaled to fit, and cropped at the center.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with Image.open(io.BytesIO(source.data(index))) as picture:
            image = picture.convert("RGB")
    except PICTURE_ERRORS as error:
        raise ValueError(f"{source.names[index]} is no picture that can be read: {error}") from error
    # Halved first, as ADM prepares ImageNet: a bicubic filter alone would alias.
    while min(image.size) >= 2 * resolution:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = resolution / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - resolution) // 2, (image.height - resolution) // 2
    pixels = np.asarray(image.crop((left, top, left + resolution, top + resolution)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1
