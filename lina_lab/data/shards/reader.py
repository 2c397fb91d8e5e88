"""Single images of a folder of shards, read where they lie in their tar files."""

import math
import os
import weakref
import zlib
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lina_lab.data.shards.format import (
    CAPTION,
    CLASS,
    MOMENTS,
    STATES,
    Half,
    Index,
    Manifest,
    ShardError,
    class_number,
    half_header,
    read_index,
    to_array,
)
from lina_lab.util.files import sha256

OPEN_FILES = 32
"""Most shards whose files are open at a time."""


class At(NamedTuple):
    """Where an image lies."""

    number: int
    """Index of its shard."""
    shard: Index
    """The index of that shard's samples."""
    within: int
    """Index of the image in the shard."""


class ShardReader:
    """Reads the members of an image's sample.

    Args:
        folder: of the shards.
        manifest: of the folder.

    Raises:
        ShardError: by all methods that read; a shard or a sample is damaged. The message names shard and key.
        OSError: by the same; the disk cannot be read.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.starts = list(accumulate((shard.images for shard in manifest.shards), initial=0))
        self.shape = (2, manifest.stored_channels, *manifest.latent_shape[1:])
        self.header = half_header(self.shape)
        self._indices: dict[int, Index | str] = {}
        """A shard's index; or what is wrong with it, as text: an exception would keep its frames alive."""
        self._files: OrderedDict[int, int] = OrderedDict()
        weakref.finalize(self, _close, self._files)

    def __getstate__(self) -> dict[str, Any]:
        """The state for a worker process, which opens files of its own."""
        return {**self.__dict__, "_files": OrderedDict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        weakref.finalize(self, _close, self._files)

    def at(self, index: int) -> At:
        """Where an image lies, by its index in the whole folder."""
        number = bisect_right(self.starts, index) - 1
        return At(number, self._index(number), index - self.starts[number])

    def moments(self, at: At, mirrored: int) -> Half:
        """The moments [2C, h, w], or pixels [C, h, w], of the image (0) or of its mirror image (1)."""
        offset, size = (int(number) for number in at.shard.members[MOMENTS][at.within])
        half = 2 * math.prod(self.shape[1:])
        if size == len(self.header) + 2 * half and self._read(at, len(self.header), offset) == self.header:
            data = self._read(at, half, offset + len(self.header) + mirrored * half)
            if len(data) == half:
                self._check_sum(at, MOMENTS, data, mirrored)
                return np.frombuffer(data, dtype="<f2").reshape(self.shape[1:])
        # Something else than expected: read it whole, to say what it is.
        moments = to_array(self._member(at, MOMENTS), self.where(at))
        if moments.shape != self.shape or moments.dtype != np.float16:
            held = f"{moments.dtype}{list(moments.shape)}"
            raise ShardError(f"{self.where(at)}: moments are {held}, not float16{list(self.shape)}")
        self._check_sum(at, MOMENTS, moments[mirrored].tobytes(), mirrored)
        return np.asarray(moments[mirrored])

    def label(self, at: At) -> int:
        """The class."""
        text, classes = self._member(at, CLASS), len(self.manifest.classes or ())
        number = class_number(text, classes)
        if number is None:
            raise ShardError(f"{self.where(at)}: class {text[:20]!r} is not one of {classes}")
        return number

    def caption(self, at: At, *, long: bool = False) -> str:
        """The short or the long caption."""
        try:
            return self._member(at, CAPTION[long]).decode()
        except UnicodeDecodeError as error:
            raise ShardError(f"{self.where(at)}: {CAPTION[long]} is no text: {error}") from error

    def states(self, at: At, *, long: bool = False) -> Half:
        """The states [l, d] of the short or the long caption."""
        states, text = to_array(self._member(at, STATES[long]), self.where(at)), self.manifest.text
        assert text is not None
        fits = states.ndim == 2 and states.shape[1] == text.dim and len(states) <= text.length
        if states.dtype != np.float16 or not fits:
            held = f"{states.dtype}{list(states.shape)}"
            raise ShardError(
                f"{self.where(at)}: {STATES[long]} is {held}, not float16[up to {text.length}, {text.dim}]"
            )
        if not np.isfinite(states).all():
            raise ShardError(f"{self.where(at)}: {STATES[long]} is not finite")
        return np.asarray(states)

    def _read(self, at: At, size: int, offset: int) -> bytes:
        try:
            return os.pread(self._file(at.number), size, offset)
        except OSError as error:
            # The disk is at fault, not the data: it may pass, and no other image may take this one's place.
            raise OSError(f"{self.where(at)} cannot be read: {error}") from error

    def where(self, at: At) -> str:
        """Shard and key, for messages."""
        return f"{self.manifest.shards[at.number].name}, key {at.shard.keys[at.within]}"

    def _member(self, at: At, kind: str) -> bytes:
        if kind not in at.shard.members:
            raise ShardError(f"{self.where(at)}: it has no {kind}")
        offset, size = (int(number) for number in at.shard.members[kind][at.within])
        data = self._read(at, size, offset)
        if len(data) != size:
            raise ShardError(f"{self.manifest.shards[at.number].name} ends in the middle of a sample")
        if kind != MOMENTS:
            self._check_sum(at, kind, data)
        return data

    def _check_sum(self, at: At, kind: str, data: bytes, half: int = 0) -> None:
        """Compare what was read of a member with the sum that its header notes.

        Raises:
            ShardError: they differ: a disk, or a copy, has changed bits.
        """
        noted = int(at.shard.sums[kind][at.within, half])
        if noted >= 0 and zlib.crc32(data) != noted:
            raise ShardError(f"{self.where(at)}: {kind} is not what was written: its sum (CRC-32) differs")

    def _index(self, number: int) -> Index:
        """A shard's index, made once, also if the shard is damaged."""
        if number not in self._indices:
            shard = self.manifest.shards[number]
            try:
                index = read_index(self.folder / shard.name, shard.images)
                # Shards of version 0.2 have no sums: the whole file is compared, once in each process.
                if any((each[:, 0] < 0).any() for each in index.sums.values()):
                    self._check_file(number)
                self._indices[number] = index
            except ShardError as error:
                self._indices[number] = str(error)
        found = self._indices[number]
        if isinstance(found, str):
            raise ShardError(found)
        return found

    def _check_file(self, number: int) -> None:
        shard = self.manifest.shards[number]
        if sha256(self.folder / shard.name) != shard.sha256:
            raise ShardError(f"{shard.name}: its contents are not those of the manifest")

    def _file(self, number: int) -> int:
        if number in self._files:
            self._files.move_to_end(number)
            return self._files[number]
        if len(self._files) >= OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        self._files[number] = os.open(self.folder / self.manifest.shards[number].name, os.O_RDONLY)
        return self._files[number]


def _close(files: "OrderedDict[int, int]") -> None:
    """Close all files: a study reads one data set after another in one process."""
    while files:
        os.close(files.popitem()[1])
