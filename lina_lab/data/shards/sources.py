"""Images to encode: in a folder for each class, with caption files, or in WebDataset shards."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from lina_lab.data.pixels import from_pixels
from lina_lab.data.shards.listing import Damages, LeftOut, files_of
from lina_lab.data.shards.source_files import Source, in_folder
from lina_lab.data.shards.source_tars import in_tars


def find_images(folder: Path, out: Path | None = None, damages: Damages | None = None) -> Source:
    """Find the images of a folder.

    Args:
        folder: of the images.
        out: a folder that may lie in it, and is left out.
        damages: gets samples that are not whole; None: the first ends it.

    Raises:
        ValueError: there are no images, some have captions and others not, or a shard is damaged.
        OSError: the disk cannot be read.
    """
    damages, left_out = damages or Damages(), LeftOut()
    listing = files_of(folder, left_out, out)
    source = (in_tars if listing.tars else in_folder)(folder, listing, left_out, damages)
    source = replace(source, damaged=len(damages.found))
    damages.check(source.images)
    return source


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
