"""Images to encode, in whatever form they come: files, WebDataset shards, or tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from lina_lab.data.pixels import from_pixels
from lina_lab.data.shards.listing import Damages, LeftOut, Listing, files_of
from lina_lab.data.shards.samples import Keys, Source
from lina_lab.data.shards.source_files import has_texts, in_folder
from lina_lab.data.shards.source_metadata import LINES, ROWS, columns_of, in_metadata, metadata_of
from lina_lab.data.shards.source_tars import in_tars


def find_images(
    folder: Path, out: Path | None = None, damages: Damages | None = None, keys: Keys | None = None
) -> Source:
    """Find the images of a folder.

    Args:
        folder: of the images.
        out: a folder that may lie in it, and is left out.
        damages: gets samples that are not whole; None: the first ends it.
        keys: what captions and classes are called in JSON and in tables.

    Raises:
        ValueError: there are no images, some have captions and others not, or a shard is damaged.
        OSError: the disk cannot be read.
    """
    damages, left_out, keys = damages or Damages(), LeftOut(), keys or Keys()
    listing = files_of(folder, left_out, out)
    for field in ("image", "label", "split"):
        value = getattr(keys, field)
        if value is not None and (listing.tars or listing.pictures) and not (field == "label" and metadata_of(listing)):
            name, only = ("split" if field == "split" else f"{field}_key"), "tables without pictures beside them"
            also = f", {LINES} and {ROWS}" if field == "label" else ""
            raise ValueError(f"{name}={value} is for {only}{also}, and {folder} is read otherwise")
    source = _source(folder, listing, keys, left_out, damages)
    source = replace(source, damaged=len(damages.found))
    damages.check(source.images)
    return source


def _source(folder: Path, listing: Listing, keys: Keys, left_out: LeftOut, damages: Damages) -> Source:
    if listing.tars:
        return in_tars(folder, listing, keys, left_out, damages)
    if not listing.pictures and listing.tables:
        # pyarrow takes a third of a second to import.
        from lina_lab.data.shards.source_tables import in_tables

        return in_tables(folder, listing, keys, left_out, damages)
    named = keys != Keys()
    if listing.pictures and (named or not has_texts(listing)) and (metadata := metadata_of(listing)):
        columns = columns_of(metadata, keys)
        return in_metadata(folder, listing, metadata, columns, left_out, damages)
    return in_folder(folder, listing, keys, left_out, damages)


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
