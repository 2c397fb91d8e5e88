"""Images to encode: where they and their captions lie, and those that are files of a folder."""

import io
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from lina_lab.data.shards.format import CAPTION, CLASS

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Endings of images."""
PICTURE_ERRORS = (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError)
"""What Pillow raises for damaged files."""
ORDER_SEED = 0
"""Seed of the order in which images are written to shards: the same every time."""


@dataclass(frozen=True)
class Stored:
    """An image or a caption: a file, or a part of one."""

    name: str
    """Its name in messages."""
    path: Path
    offset: int = 0
    size: int = -1
    """-1: up to the end of the file."""

    def read(self) -> bytes:
        """The contents."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def text(self) -> str:
        """The contents as text.

        Raises:
            ValueError: they are none in UTF-8.
        """
        try:
            return self.read().decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.name} is no text in UTF-8: {error}") from error

    def picture(self, name: str | None = None) -> Image.Image:
        """The contents as an RGB image; messages have another name for it where one is given.

        Raises:
            ValueError: they are none that can be read.
        """
        try:
            with Image.open(io.BytesIO(self.read())) as image:
                return image.convert("RGB")
        except PICTURE_ERRORS as error:
            raise ValueError(f"{name or self.name} is no picture that can be read: {error}") from error


@dataclass(frozen=True)
class Sample:
    """An image with its class or its captions."""

    name: str
    """Its name in the folder of the images."""
    image: Stored
    label: int | None
    captions: dict[bool, Stored]
    """The short (False) and the long (True) caption, as far as there are captions."""


@dataclass(frozen=True)
class Source:
    """The images to encode, in the order in which shards hold them."""

    samples: tuple[Sample, ...]
    classes: tuple[str, ...] | None
    """Names of the classes; None: there are captions instead."""
    long_captions: bool
    """Whether each image has a long caption, too."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """A name for each image; together they identify the set."""
        return tuple(sample.name for sample in self.samples)

    def condition(self, index: int) -> dict[str, Any]:
        """Members of an image's sample beside the image: its class, or its captions."""
        sample = self.samples[index]
        if self.classes is not None:
            return {CLASS: sample.label}
        return {CAPTION[long]: caption.text() for long, caption in sample.captions.items()}


def files_of(folder: Path, out: Path | None = None) -> tuple[list[Path], list[Path]]:
    """Shards (.tar), and images, in a folder and its subfolders but for `out`, in the order of their names.

    Raises:
        ValueError: there are both.
    """
    here, left_out = folder.resolve(), None if out is None else out.resolve()
    if here == left_out:
        raise ValueError(f"out={out} is the folder of the images: give another one, which may lie in it")
    tars, pictures = [], []
    for parent, _, names in os.walk(here):
        if left_out is not None and left_out.is_relative_to(here) and Path(parent).is_relative_to(left_out):
            continue
        own = folder / Path(parent).relative_to(here)
        tars += [own / name for name in names if name.endswith(".tar")]
        pictures += [own / name for name in names if Path(name).suffix.lower() in PICTURES]
    if tars and pictures:
        raise ValueError(f"{folder} holds both shards ({min(tars)}) and pictures ({min(pictures)}): which are meant?")
    return sorted(tars), sorted(pictures)


def in_folder(folder: Path, files: list[Path]) -> Source:
    """The files of a folder.

    Raises:
        ValueError: there are no images, or some have captions, or a folder of their class, and others not.
    """
    if not files:
        raise ValueError(f"images={folder} holds no pictures ({', '.join(PICTURES)}), and no shards (.tar)")
    # Listed once: on a network disk it takes long to look up each file.
    there = {Path(parent, name) for parent, _, names in os.walk(folder) for name in names}
    captioned = [_caption(file) in there for file in files]
    if any(captioned) and not all(captioned):
        raise ValueError(f"{files[captioned.index(False)]} has no caption beside it, and others have")
    long = [_caption(file, long=True) in there for file in files]
    if any(long) and not (all(long) and all(captioned)):
        lacking = files[long.index(False)] if not all(long) else files[0]
        raise ValueError(f"{lacking} has not both captions beside it (.txt and .long.txt), and others have a long one")
    top = [file for file in files if file.parent == folder]
    if not all(captioned) and top:
        raise ValueError(f"{top[0]} has neither a caption beside it nor a folder of its class")
    classes = None if all(captioned) else tuple(sorted({file.relative_to(folder).parts[0] for file in files}))
    numbers = {name: number for number, name in enumerate(classes or ())}
    kinds = [kind for kind, there in ((False, all(captioned)), (True, all(long))) if there]
    samples = [
        Sample(
            name=str(file.relative_to(folder)),
            image=Stored(str(file), file),
            label=numbers.get(file.relative_to(folder).parts[0]),
            captions={kind: Stored(str(_caption(file, long=kind)), _caption(file, long=kind)) for kind in kinds},
        )
        for file in files
    ]
    return Source(shuffled(samples), classes, all(long))


def _caption(file: Path, *, long: bool = False) -> Path:
    return file.with_suffix(f".{CAPTION[long]}")


def shuffled(samples: list[Sample]) -> tuple[Sample, ...]:
    """The samples in the order of the shards."""
    return tuple(samples[index] for index in np.random.default_rng(ORDER_SEED).permutation(len(samples)))
