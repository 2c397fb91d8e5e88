"""WebDataset shards of cached latents, read by place: any rank reads the images of its own, in the one order of a seed.

A folder holds `manifest.json` and tar files. A sample is `KEY.moments.npy` (float16 [2, 2C, h, w]: mean and log
variance of the posterior, of the image and of its mirror image), and `KEY.cls` (its class) or `KEY.txt` (its caption).
A tar is read where its members lie, so that what a rank sees depends on (seed, step) and not on how shards fall to
ranks and workers; neighbours in the order come from a few shards, so that reading stays local.
"""

import io
import json
import math
import os
import tarfile
import weakref
from bisect import bisect_right
from collections import Counter, OrderedDict
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib import format as npy
from torch import Generator, Tensor
from torch.utils.data import Dataset

from lina_lab.config.checks import from_dict
from lina_lab.seeds import derive

Half = npt.NDArray[np.float16]
MANIFEST, FORMAT = "manifest.json", 1
MOMENTS, CLASS, CAPTION = "moments.npy", "cls", "txt"
ALLOWED = (MOMENTS, CLASS, CAPTION)
"""Members that a sample may have; anything else is refused, and nothing is ever unpickled."""
OPEN_FILES = 32
WINDOW = 8
"""Shards whose images are mixed with each other."""


class ShardError(ValueError):
    """A shard does not hold what it should; the message names shard and key."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file, as the manifest has it."""

    name: str
    images: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder of shards holds."""

    format: int
    images: int
    latent_shape: tuple[int, int, int]
    """C, h, w"""
    mean: tuple[float, ...]
    """Of the latents, for each channel."""
    std: tuple[float, ...]
    resolution: int
    """Pixels of an image's side."""
    vae: str
    """What encoded it."""
    vae_sha256: str
    classes: tuple[str, ...] | None
    """Names; None: captions."""
    shards: tuple[Shard, ...]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        ShardError: there is none, it is damaged or of a newer version, or its shards are not there.
    """
    path = folder / MANIFEST
    try:
        found = from_dict(Manifest, json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise ShardError(
            f"{path} is not there: make shards with python -m lina_lab.data.cache, and let it end"
        ) from error
    except (ValueError, OSError) as error:
        raise ShardError(f"{path} is damaged: {error}") from error
    if found.format > FORMAT:
        raise ShardError(f"{path} is of format {found.format}, and this version of lina_lab knows {FORMAT}")
    for shard in found.shards:
        file = folder / shard.name
        if not file.is_file():
            raise ShardError(f"{file} is in the manifest, and not in the folder")
        if file.stat().st_size != shard.bytes:
            raise ShardError(f"{file} has {file.stat().st_size:,} bytes, and {shard.bytes:,} in the manifest")
    if sum(shard.images for shard in found.shards) != found.images:
        raise ShardError(f"{path}: its shards hold {sum(s.images for s in found.shards)} images, not {found.images}")
    return found


@dataclass(frozen=True, kw_only=True)
class Index:
    """Where the samples of a shard lie."""

    keys: tuple[str, ...]
    places: dict[str, npt.NDArray[np.int64]]
    """Member -> offset and size of each sample's: [images, 2]."""


def read_index(path: Path, images: int) -> Index:
    """Look through a shard's headers.

    Raises:
        ShardError: it is truncated, holds another number of samples, or a member that is none of a sample's.
    """
    found: OrderedDict[str, dict[str, tuple[int, int]]] = OrderedDict()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, kind = member.name.partition(".")
                if not member.isfile() or kind not in ALLOWED:
                    raise ShardError(f"{path.name}, key {key}: {member.name} is none of {', '.join(ALLOWED)}: refused")
                found.setdefault(key, {})[kind] = (member.offset_data, member.size)
    except (tarfile.TarError, EOFError) as error:
        raise ShardError(f"{path.name} is no tar that can be read to its end: {error}") from error
    if len(found) != images:
        raise ShardError(f"{path.name} holds {len(found)} samples, and {images} in the manifest")
    # What most samples have is what all need.
    kinds = {MOMENTS, *Counter(frozenset(members) for members in found.values()).most_common(1)[0][0]}
    for key, members in found.items():
        if members.keys() != kinds:
            has, needs = (", ".join(sorted(names)) for names in (members, kinds))
            raise ShardError(f"{path.name}, key {key}: it has {has}, and needs {needs}")
    places = {kind: np.array([members[kind] for members in found.values()], dtype=np.int64) for kind in kinds}
    return Index(keys=tuple(found), places=places)


class ShardImages(Dataset[tuple[Tensor, ...]]):
    """The images of a folder of shards: takes numbers and returns latents float32 [B, C, h, w] and classes int64 [B].

    Number `pass * images + place` is the image at a place, in a pass over the data: its latent is drawn from the
    posterior, and mirrored or not, by draws of (seed, pass, place), and scaled to unit variance.

    Args:
        folder: of the shards.
        first, images: which of the folder's images these are.
        seed: of the draws.
        flip: mirror half of them.
        skip: share of the images that may be damaged, and are then replaced by the next one; 0: the first is one too
            many.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, *, first: int, images: int, seed: int, flip: bool, skip: float = 0.0
    ) -> None:
        self.folder, self.manifest, self.first, self.images, self.seed = folder, manifest, first, images, seed
        self.flip, self.skip = flip, skip
        self.starts = list(accumulate((shard.images for shard in manifest.shards), initial=0))
        self.mean, self.std = (torch.tensor(v).reshape(-1, 1, 1) for v in (manifest.mean, manifest.std))
        channels, *grid = manifest.latent_shape
        self.shape = (2, 2 * channels, *grid)
        self.header = _header(self.shape)
        self.damaged: dict[int, str] = {}
        """Place -> what is wrong with the image there."""
        self._indices: dict[int, Index | ShardError] = {}
        self._files: OrderedDict[int, int] = OrderedDict()
        weakref.finalize(self, _close, self._files)

    def __len__(self) -> int:
        return self.images

    def __getstate__(self) -> dict[str, Any]:
        """For a worker process, which opens files of its own."""
        return {**self.__dict__, "_files": OrderedDict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        weakref.finalize(self, _close, self._files)

    def __getitem__(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        generator, count = Generator(), len(numbers)
        moments = np.empty((count, *self.shape[1:]), dtype=np.float16)
        labels, noise = torch.empty(count, dtype=torch.int64), torch.empty(count, *self.manifest.latent_shape)
        asked: list[tuple[int, int]] = []
        for row, number in enumerate(numbers.tolist()):
            passed, place = divmod(number, self.images)
            generator.manual_seed(derive(self.seed, "posterior", passed, place))
            heads = bool(torch.rand((), generator=generator) < 0.5)
            torch.randn(noise.shape[1:], generator=generator, out=noise[row])
            asked.append((place, int(self.flip and heads)))
            moments[row], labels[row] = self._readable(*asked[-1])
        floats = moments.astype(np.float32)
        # A sum is finite where all its parts are.
        for row in np.flatnonzero(~np.isfinite(floats.sum(axis=(1, 2, 3)))).tolist():
            floats[row], labels[row] = self._readable(*asked[row], finite=True)
        mean, log_variance = torch.from_numpy(floats).chunk(2, dim=1)
        latents = mean + noise * (0.5 * log_variance.clamp(-30, 20)).exp_()
        return latents.sub_(self.mean).div_(self.std), labels

    def means(self) -> tuple[Tensor, Tensor]:
        """All images as the means of their posteriors, not mirrored: latents [n, C, h, w] and classes [n]."""
        samples = [self._sample(self.first + place, 0, finite=True) for place in range(self.images)]
        means = torch.stack([torch.from_numpy(moments.astype(np.float32)).chunk(2)[0] for moments, _ in samples])
        return (means - self.mean) / self.std, torch.tensor([label for _, label in samples])

    def _readable(self, place: int, mirrored: int, *, finite: bool = False) -> tuple[Half, int]:
        """Moments [2C, h, w] and class of the image at a place, or of the next one that can be read, within limits."""
        for offset in range(self.images):
            try:
                return self._sample(self.first + (place + offset) % self.images, mirrored, finite=finite)
            except ShardError as error:
                self.damaged[(place + offset) % self.images] = str(error)
                if len(self.damaged) > self.skip * self.images:
                    allowed = f"; {len(self.damaged)} of {self.images} are more than data.max_skipped={self.skip}"
                    raise ShardError(f"{error}{allowed if self.skip else ''}") from error
        raise ShardError(f"{self.folder}: no image can be read")

    def _sample(self, place: int, mirrored: int, *, finite: bool) -> tuple[Half, int]:
        number = bisect_right(self.starts, place) - 1
        within, index = place - self.starts[number], self._index(number)
        where = f"{self.manifest.shards[number].name}, key {index.keys[within]}"
        moments = self._moments(number, index.places[MOMENTS][within], mirrored, where)
        if finite and not np.isfinite(moments).all():
            raise ShardError(f"{where}: moments are not finite")
        return moments, self._class(number, index, within, where)

    def _moments(self, number: int, place: npt.NDArray[np.int64], mirrored: int, where: str) -> Half:
        """The moments of the image or of its mirror image; the other one is not read."""
        offset, size = int(place[0]), int(place[1])
        half = 2 * math.prod(self.shape[1:])
        if (
            size == len(self.header) + 2 * half
            and os.pread(self._file(number), len(self.header), offset) == self.header
        ):
            data = os.pread(self._file(number), half, offset + len(self.header) + mirrored * half)
            if len(data) == half:
                return np.frombuffer(data, dtype="<f2").reshape(self.shape[1:])
        # Not what is expected: read as a whole, to say what it is.
        moments = _array(self._bytes(number, place), where)
        if moments.shape != self.shape or moments.dtype != np.float16:
            held = f"{moments.dtype}{list(moments.shape)}"
            raise ShardError(f"{where}: moments are {held}, not float16{list(self.shape)}")
        return np.asarray(moments[mirrored])

    def _class(self, number: int, index: Index, within: int, where: str) -> int:
        if CLASS not in index.places:
            return 0
        text = self._bytes(number, index.places[CLASS][within])
        classes = len(self.manifest.classes or ())
        if not text.isdigit() or int(text) >= classes:
            raise ShardError(f"{where}: class {text[:20]!r} is not one of {classes}")
        return int(text)

    def _index(self, number: int) -> Index:
        """Where a shard's samples lie; looked up once, also if it is damaged."""
        if number not in self._indices:
            shard = self.manifest.shards[number]
            try:
                self._indices[number] = read_index(self.folder / shard.name, shard.images)
            except ShardError as error:
                self._indices[number] = error
        found = self._indices[number]
        if isinstance(found, ShardError):
            raise found
        return found

    def _bytes(self, number: int, place: npt.NDArray[np.int64]) -> bytes:
        offset, size = int(place[0]), int(place[1])
        data = os.pread(self._file(number), size, offset)
        if len(data) != size:
            raise ShardError(f"{self.manifest.shards[number].name} ends in the middle of a sample")
        return data

    def _file(self, number: int) -> int:
        if number in self._files:
            self._files.move_to_end(number)
            return self._files[number]
        if len(self._files) >= OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        self._files[number] = os.open(self.folder / self.manifest.shards[number].name, os.O_RDONLY)
        return self._files[number]

    def order(self, generator: Generator) -> Tensor:
        """All places of a pass in an order that mixes a few shards at a time."""
        numbers = np.searchsorted(self.starts, self.first + np.arange(self.images), side="right") - 1
        shards = torch.from_numpy(np.unique(numbers))
        shards = shards[torch.randperm(len(shards), generator=generator)]
        parts = []
        for window in torch.split(shards, WINDOW):
            places = torch.cat([torch.from_numpy(np.flatnonzero(numbers == int(shard))) for shard in window])
            parts.append(places[torch.randperm(len(places), generator=generator)])
        return torch.cat(parts)


def _close(files: "OrderedDict[int, int]") -> None:
    """A study reads one set after another in one process: none may leave its files open."""
    while files:
        os.close(files.popitem()[1])


def _header(shape: tuple[int, ...]) -> bytes:
    """The head of npy's format for half-precision numbers of a shape."""
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return file.getvalue()


def _array(data: bytes, where: str) -> npt.NDArray[Any]:
    """An array in npy's format; objects, which would have to be unpickled, are refused."""
    file = io.BytesIO(data)
    try:
        version = npy.read_magic(file)
        shape, fortran, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
        if dtype.hasobject or fortran:
            raise ValueError(f"an array of {dtype}, in {'columns' if fortran else 'rows'}")
        return np.frombuffer(data, dtype=dtype, offset=file.tell()).reshape(shape)
    except ValueError as error:
        raise ShardError(f"{where}: no array that can be read: {error}") from error
