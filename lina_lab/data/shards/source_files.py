"""Images to encode: where they and their captions lie, and those that are files of a folder."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lina_lab.data.pictures import read_picture
from lina_lab.data.shards.format import CAPTION, CLASS
from lina_lab.data.shards.listing import PICTURES, SHARD, Damages, LeftOut, Listing, leave_out, printable
from lina_lab.util.errors import first_line

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
            # Editors on Windows put a mark of the byte order first, which is no part of the text.
            return self.read().decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{printable(self.name)} is no text in UTF-8: {error}") from error

    def picture(self, name: str | None = None) -> Image.Image:
        """The contents as an RGB image as people see it; messages have another name for it where one is given.

        Raises:
            ValueError: they are none that can be read.
            OSError: the disk cannot be read.
        """
        data = self.read()
        try:
            return read_picture(data)
        except Exception as error:
            # Pillow raises a dozen kinds of errors for damaged files.
            shown = printable(name or self.name)
            raise ValueError(f"{shown} is no picture that can be read: {first_line(error)}") from error


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
    left_out: LeftOut = field(default_factory=LeftOut)
    """What was found beside them and is not used."""
    damaged: int = 0
    """Number of further images, which lack what others have."""

    @property
    def images(self) -> int:
        """Number of all images that were found, to which a share of damaged ones refers."""
        return len(self.samples) + self.damaged

    @property
    def condition_name(self) -> str:
        """What belongs to each image, for messages."""
        if self.classes is not None:
            return f"of {len(self.classes):,} classes"
        return "with two captions each" if self.long_captions else "with captions"

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


def in_folder(folder: Path, listing: Listing, left_out: LeftOut, damages: Damages) -> Source:
    """The files of a folder.

    Args:
        folder: the folder.
        listing: its files.
        left_out: gets what is not used.
        damages: gets images that lack a caption which others have.

    Raises:
        ValueError: there are no images, or some have captions, or a folder of their class, and others not.
    """
    files, others = listing.pictures, set(listing.others)
    if not files:
        raise ValueError(f"images={folder} holds no pictures ({', '.join(PICTURES)}), and no shards ({SHARD})")
    kinds = [long for long in CAPTION if any(_caption(file, long=long) in others for file in files)]
    if kinds == [True]:
        raise ValueError(f"{files[0]} has not both captions beside it (.txt and .long.txt)")
    captions = {file: {long: _caption(file, long=long) for long in kinds} for file in files}
    for file, own in captions.items():
        if lacking := [caption.name for caption in own.values() if caption not in others]:
            name = _name(folder, file)
            damages.note(name, f"{printable(file)} has no caption beside it, and others have: {lacking[0]}")
        elif not kinds and file.parent == folder:
            name, problem = _name(folder, file), "has neither a caption beside it nor a folder of its class"
            damages.note(name, f"{printable(file)} {problem}")
    files = [file for file in files if _name(folder, file) not in damages.found]
    used = {caption for file in files for caption in captions[file].values()}
    leave_out([file for file in listing.others if file not in used], left_out)
    classes = None if kinds else tuple(sorted({file.relative_to(folder).parts[0] for file in files}))
    for name in [] if classes is None else [each for each in listing.folders if each not in classes]:
        left_out.add("class folders without pictures", name)
    numbers = {name: number for number, name in enumerate(classes or ())}
    samples = [
        Sample(
            name=_name(folder, file),
            image=Stored(str(file), file),
            label=numbers.get(file.relative_to(folder).parts[0]),
            captions={long: Stored(str(path), path) for long, path in captions[file].items()},
        )
        for file in files
    ]
    return Source(shuffled(samples), classes, True in kinds, left_out)


def _name(folder: Path, file: Path) -> str:
    return str(file.relative_to(folder))


def _caption(file: Path, *, long: bool = False) -> Path:
    return file.with_suffix(f".{CAPTION[long]}")


def shuffled(samples: list[Sample]) -> tuple[Sample, ...]:
    """The samples in the order of the shards."""
    return tuple(samples[index] for index in np.random.default_rng(ORDER_SEED).permutation(len(samples)))
