"""Images to encode as files of a folder: in a folder for each class, or with caption files."""

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
class FolderSource:
    """Images as files of a folder."""

    folder: Path
    files: tuple[Path, ...]
    classes: tuple[str, ...] | None
    long_captions: bool

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(str(file.relative_to(self.folder)) for file in self.files)

    def data(self, index: int) -> bytes:
        return self.files[index].read_bytes()

    def condition(self, index: int) -> dict[str, Any]:
        file = self.files[index]
        if self.classes is not None:
            return {CLASS: self.classes.index(file.relative_to(self.folder).parts[0])}
        kinds = (False, True) if self.long_captions else (False,)
        return {CAPTION[long]: _decoded(_caption(file, long=long)) for long in kinds}


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


def in_folder(folder: Path, files: list[Path]) -> FolderSource:
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
    return FolderSource(folder, tuple(files[index] for index in shuffled(len(files))), classes, all(long))


def _caption(file: Path, *, long: bool = False) -> Path:
    return file.with_suffix(f".{CAPTION[long]}")


def _decoded(file: Path) -> str:
    return decode_text(file.read_bytes(), str(file))


def decode_text(data: bytes, where: str) -> str:
    """Text in UTF-8; `where` begins the message of the error.

    Raises:
        ValueError: it is none.
    """
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is no text in UTF-8: {error}") from error


def shuffled(count: int) -> list[int]:
    """Indices in the order of the shards."""
    return [int(index) for index in np.random.default_rng(ORDER_SEED).permutation(count)]
