"""Images to encode in WebDataset shards."""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lina_lab.data.shards.format import CAPTION, CLASS
from lina_lab.data.shards.source_files import PICTURES, decode_text, shuffled

MAX_CLASSES = 1_000_000


@dataclass(frozen=True)
class TarSource:
    """Samples of WebDataset shards: an image with `cls`, or with `txt` and perhaps `long.txt`."""

    folder: Path
    samples: tuple["TarSample", ...]
    classes: tuple[str, ...] | None
    long_captions: bool

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{sample.tar.relative_to(self.folder)}/{sample.key}" for sample in self.samples)

    def data(self, index: int) -> bytes:
        sample = self.samples[index]
        return _read(sample.tar, *sample.members[sample.picture])

    def condition(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        if self.classes is not None:
            return {CLASS: sample.label}
        kinds = (CAPTION[False], CAPTION[True]) if self.long_captions else (CAPTION[False],)
        where = f"{sample.tar}, key {sample.key}"
        return {kind: decode_text(_read(sample.tar, *sample.members[kind]), f"{where}: {kind}") for kind in kinds}


@dataclass(frozen=True, kw_only=True)
class TarSample:
    """Where a sample lies in its tar."""

    tar: Path
    key: str
    picture: str
    """The member that is the image."""
    members: dict[str, tuple[int, int]]
    """Member -> offset and size."""
    label: int | None


def in_tars(folder: Path, tars: list[Path]) -> TarSource:
    """The samples of shards.

    Raises:
        ValueError: there are no images, some have a class or a caption and others not, or a shard is damaged.
    """
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
        folder, tuple(samples[index] for index in shuffled(len(samples))), classes, all(long) and classes is None
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
    """Name and contents of each image in a shard.

    Raises:
        ValueError: it is no shard, or a sample has not exactly one image.
    """
    for sample in _samples(tar):
        yield f"{tar}, key {sample.key}", _read(tar, *sample.members[sample.picture])


def _sample(tar: Path, key: str, members: dict[str, tuple[int, int]], text: bytes | None) -> TarSample:
    pictures = [kind for kind in members if f".{kind}" in PICTURES]
    if len(pictures) != 1:
        raise ValueError(f"{tar}, key {key}: it has {len(pictures)} pictures ({', '.join(PICTURES)}), and needs one")
    label = None
    if text is not None:
        if not text.isdigit() or int(text) >= MAX_CLASSES:
            raise ValueError(f"{tar}, key {key}: class {text[:20]!r} is no number below {MAX_CLASSES:,}")
        label = int(text)
    return TarSample(tar=tar, key=key, picture=pictures[0], members=members, label=label)


def _read(tar: Path, offset: int, size: int) -> bytes:
    with tar.open("rb") as file:
        return os.pread(file.fileno(), size, offset)
