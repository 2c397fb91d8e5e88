"""Images to encode: in a folder for each class, beside captions, or in WebDataset shards."""

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lina_lab.data.shards.format import CAPTION, CLASS

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
PICTURE_ERRORS = (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError)
"""What Pillow raises of files that are damaged."""
MOST_CLASSES = 1_000_000
ORDER_SEED = 0
"""Images are mixed before they fall to shards, the same way every time."""


class Source(Protocol):
    """The images to encode, in their order in the shards."""

    @property
    def names(self) -> tuple[str, ...]:
        """One for each image, which tells the set from another."""
        ...

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes; None: captions."""
        ...

    @property
    def long_captions(self) -> bool:
        """Whether each image has a second, long caption."""
        ...

    def data(self, place: int) -> bytes:
        """The picture's file."""
        ...

    def said(self, place: int) -> dict[str, Any]:
        """Members of its sample in the shards: a class, or captions."""
        ...


@dataclass(frozen=True)
class FolderSource:
    """Files in a folder."""

    folder: Path
    files: tuple[Path, ...]
    classes: tuple[str, ...] | None
    long_captions: bool

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(str(file.relative_to(self.folder)) for file in self.files)

    def data(self, place: int) -> bytes:
        return self.files[place].read_bytes()

    def said(self, place: int) -> dict[str, Any]:
        file = self.files[place]
        if self.classes is not None:
            return {CLASS: self.classes.index(file.relative_to(self.folder).parts[0])}
        kinds = (False, True) if self.long_captions else (False,)
        return {CAPTION[long]: _decoded(_caption(file, long=long)) for long in kinds}


@dataclass(frozen=True)
class TarSource:
    """Samples in WebDataset shards: a picture with `cls`, or with `txt` and perhaps `long.txt`."""

    folder: Path
    samples: tuple["TarSample", ...]
    classes: tuple[str, ...] | None
    long_captions: bool

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{sample.tar.relative_to(self.folder)}/{sample.key}" for sample in self.samples)

    def data(self, place: int) -> bytes:
        sample = self.samples[place]
        return _read(sample.tar, *sample.members[sample.picture])

    def said(self, place: int) -> dict[str, Any]:
        sample = self.samples[place]
        if self.classes is not None:
            return {CLASS: sample.label}
        kinds = (CAPTION[False], CAPTION[True]) if self.long_captions else (CAPTION[False],)
        where = f"{sample.tar}, key {sample.key}"
        return {kind: _text(_read(sample.tar, *sample.members[kind]), f"{where}: {kind}") for kind in kinds}


@dataclass(frozen=True, kw_only=True)
class TarSample:
    """Where a sample's members lie in its tar: kind -> offset and size."""

    tar: Path
    key: str
    picture: str
    members: dict[str, tuple[int, int]]
    label: int | None


def find_images(folder: Path, out: Path | None = None) -> Source:
    """Look through a folder.

    Args:
        folder: of the images.
        out: a folder that may lie in it, and is no part of it.

    Raises:
        ValueError: no images, or some with captions and some without, or a shard that is none.
    """
    tars, files = files_of(folder, out)
    return _in_tars(folder, tars) if tars else _in_folder(folder, files)


def files_of(folder: Path, out: Path | None = None) -> tuple[list[Path], list[Path]]:
    """Shards (.tar), or else pictures, in a folder and those in it, in the order of their names; but for `out`.

    Raises:
        ValueError: both.
    """
    here, left_out = folder.resolve(), None if out is None else out.resolve()
    if here == left_out:
        raise ValueError(f"out={out} is the folder of the images: give another one, which may lie in it")
    tars, pictures = [], []
    for place, _, names in os.walk(here):
        if left_out is not None and left_out.is_relative_to(here) and Path(place).is_relative_to(left_out):
            continue
        own = folder / Path(place).relative_to(here)
        tars += [own / name for name in names if name.endswith(".tar")]
        pictures += [own / name for name in names if Path(name).suffix.lower() in PICTURES]
    if tars and pictures:
        raise ValueError(f"{folder} holds both shards ({min(tars)}) and pictures ({min(pictures)}): which are meant?")
    return sorted(tars), sorted(pictures)


def _decoded(file: Path) -> str:
    return _text(file.read_bytes(), str(file))


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is no text in UTF-8: {error}") from error


def _mixed(count: int) -> list[int]:
    return [int(place) for place in np.random.default_rng(ORDER_SEED).permutation(count)]


def _caption(file: Path, *, long: bool = False) -> Path:
    return file.with_suffix(f".{CAPTION[long]}")


def _in_folder(folder: Path, files: list[Path]) -> FolderSource:
    if not files:
        raise ValueError(f"images={folder} holds no pictures ({', '.join(PICTURES)}), and no shards (.tar)")
    # Listed once: on a network disk it takes long to ask for each.
    there = {Path(place, name) for place, _, names in os.walk(folder) for name in names}
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
    return FolderSource(folder, tuple(files[place] for place in _mixed(len(files))), classes, all(long))


def _in_tars(folder: Path, tars: list[Path]) -> TarSource:
    samples = [sample for tar in tars for sample in _samples(tar)]
    labelled = [sample.label is not None for sample in samples]
    if not samples:
        raise ValueError(f"images={folder} holds shards without pictures")
    if any(labelled) and not all(labelled):
        odd = samples[labelled.index(False)]
        raise ValueError(f"{odd.tar}, key {odd.key}: it has no cls, and others have")
    if not any(labelled):
        for sample in samples:
            if CAPTION[False] not in sample.members:
                raise ValueError(f"{sample.tar}, key {sample.key}: it has neither cls nor txt")
    long = [CAPTION[True] in sample.members for sample in samples]
    if any(long) and not all(long):
        odd = samples[long.index(False)]
        raise ValueError(f"{odd.tar}, key {odd.key}: it has no {CAPTION[True]}, and others have")
    count = 1 + max(sample.label or 0 for sample in samples)
    classes = tuple(str(label) for label in range(count)) if all(labelled) else None
    return TarSource(
        folder, tuple(samples[place] for place in _mixed(len(samples))), classes, all(long) and classes is None
    )


def _samples(tar: Path) -> list[TarSample]:
    found: dict[str, dict[str, tuple[int, int]]] = {}
    labels: dict[str, bytes] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                # WebDataset: a sample's key ends at the first dot of the file's name.
                folder, slash, name = member.name.rpartition("/")
                stem, _, kind = name.partition(".")
                if not member.isfile() or not stem:
                    continue
                key = f"{folder}{slash}{stem}"
                found.setdefault(key, {})[kind.lower()] = (member.offset_data, member.size)
                if kind.lower() == CLASS:
                    file = archive.extractfile(member)
                    assert file is not None
                    labels[key] = file.read().strip()
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{tar} is no tar that can be read to its end: {error}") from error
    return [_sample(tar, key, members, labels.get(key)) for key, members in found.items()]


def pictures_in(tar: Path) -> Iterator[tuple[str, bytes]]:
    """Name and file of each picture in a shard.

    Raises:
        ValueError: it is no shard, or holds a sample without one picture.
    """
    for sample in _samples(tar):
        yield f"{tar}, key {sample.key}", _read(tar, *sample.members[sample.picture])


def _sample(tar: Path, key: str, members: dict[str, tuple[int, int]], text: bytes | None) -> TarSample:
    pictures = [kind for kind in members if f".{kind}" in PICTURES]
    if len(pictures) != 1:
        raise ValueError(f"{tar}, key {key}: it has {len(pictures)} pictures ({', '.join(PICTURES)}), and needs one")
    label = None
    if text is not None:
        if not text.isdigit() or int(text) >= MOST_CLASSES:
            raise ValueError(f"{tar}, key {key}: class {text[:20]!r} is no number below {MOST_CLASSES:,}")
        label = int(text)
    return TarSample(tar=tar, key=key, picture=pictures[0], members=members, label=label)


def _read(tar: Path, offset: int, size: int) -> bytes:
    with tar.open("rb") as file:
        return os.pread(file.fileno(), size, offset)


def load_image(source: Source, place: int, resolution: int) -> Tensor:
    """An image in -1..1, [3, resolution, resolution]: the middle of what is scaled to fit.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with Image.open(io.BytesIO(source.data(place))) as picture:
            image = picture.convert("RGB")
    except PICTURE_ERRORS as error:
        raise ValueError(f"{source.names[place]} is no picture that can be read: {error}") from error
    # Halved first, which keeps what a bicubic filter would alias (as ADM prepares ImageNet).
    while min(image.size) >= 2 * resolution:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = resolution / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - resolution) // 2, (image.height - resolution) // 2
    pixels = np.asarray(image.crop((left, top, left + resolution, top + resolution)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1
