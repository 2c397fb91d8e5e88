"""Images to encode: in a folder for each class, with caption files, or in WebDataset shards."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from lina_lab.data.pixels import from_pixels
from lina_lab.data.shards.source_files import Source, files_of, in_folder
from lina_lab.data.shards.source_tars import in_tars


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
    sample = source.samples[index]
    image = sample.image.picture(sample.name)
    # Halved first, as ADM prepares ImageNet: a bicubic filter alone would alias.
    while min(image.size) >= 2 * resolution:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = resolution / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - resolution) // 2, (image.height - resolution) // 2
    return from_pixels(np.array(image.crop((left, top, left + resolution, top + resolution)))[None])[0]
