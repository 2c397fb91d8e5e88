"""Images to encode, each with its class or captions, wherever they lie: in files, or in parts of files."""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lina_lab.data.pictures import read_picture
from lina_lab.data.shards.format import CAPTION, CLASS
from lina_lab.data.shards.listing import LeftOut, printable
from lina_lab.util.errors import first_line

ORDER_SEED = 0
"""Seed of the order in which images are written to shards: the same every time."""
CAPTION_KEY = "caption"
"""Key of a caption in JSON where the user names none, as img2dataset writes it."""


@dataclass(frozen=True)
class Keys:
    """What the fields of a picture are called in JSON, in metadata and in tables; None: the usual name."""

    caption: str | None = None
    long_caption: str | None = None
    """None: there are no long captions."""
    label: str | None = None
    image: str | None = None
    split: str | None = None
    """The part of a data set that is meant, such as train."""

    @property
    def captions(self) -> dict[bool, str]:
        """The key of the short (False) caption in JSON, and of the long (True) one where it is named."""
        return {False: self.caption or CAPTION_KEY} | ({True: self.long_caption} if self.long_caption else {})


@dataclass(frozen=True)
class Part(ABC):
    """An image or a caption."""

    name: str
    """Its name in messages."""
    path: Path
    """The file that holds it."""

    @abstractmethod
    def read(self) -> bytes:
        """The contents."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where in the file it is, so that it is the same as long as the file is."""

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
            if not data:
                raise ValueError("it is empty")
            return read_picture(data)
        except Exception as error:
            # Pillow raises a dozen kinds of errors for damaged files.
            shown = printable(name or self.name)
            raise ValueError(f"{shown} is no picture that can be read: {first_line(error)}") from error


@dataclass(frozen=True)
class Stored(Part):
    """A file, or a range of bytes of one, such as a member of a tar."""

    offset: int = 0
    size: int = -1
    """-1: up to the end of the file."""

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    @property
    def place(self) -> str:
        return f"{self.offset} {self.size}"


@dataclass(frozen=True)
class InJson(Stored):
    """A caption under a key of a JSON object, which is read when it is needed."""

    key: str = CAPTION_KEY

    def text(self) -> str:
        """The caption.

        Raises:
            ValueError: the object is damaged, or has no such text.
        """
        shown = printable(self.name)
        try:
            found = json.loads(super().text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{shown} is not JSON: {error}") from error
        value = found.get(self.key) if isinstance(found, dict) else None
        if isinstance(value, str):
            return value.strip()
        if isinstance(found, dict) and self.key not in found:
            keys = ", ".join(map(str, found)) or "none"
            raise ValueError(f"{shown} has no {self.key}: caption_key=KEY names one of its keys ({keys})")
        raise ValueError(f"{shown}: its {self.key} is no text")


@dataclass(frozen=True)
class Written(Part):
    """A caption that was read together with others: a value in a table."""

    value: str = ""

    def read(self) -> bytes:
        return self.value.encode()

    @property
    def place(self) -> str:
        return self.value


@dataclass(frozen=True)
class Sample:
    """An image with its class or its captions."""

    name: str
    """Its name in the folder of the images."""
    image: Part
    label: int | None
    captions: dict[bool, Part]
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


def shuffled(samples: list[Sample]) -> tuple[Sample, ...]:
    """The samples in the order of the shards."""
    return tuple(samples[index] for index in np.random.default_rng(ORDER_SEED).permutation(len(samples)))
