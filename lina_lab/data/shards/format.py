"""What a folder of WebDataset shards of cached latents holds, and how it is looked through.

A folder holds `manifest.json` and tar files. A sample is `KEY.moments.npy` (float16 [2, 2C, h, w]: mean and log
variance of the posterior, of the image and of its mirror image), and `KEY.cls` (its class) or `KEY.txt` (its caption,
and `KEY.long.txt` a longer one), with `KEY.text.npy` (and `KEY.long.npy`: float16 [l, d], states of a text encoder).
"""

import io
import json
import tarfile
from collections import Counter, OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from lina_lab.config.checks import from_dict

Half = npt.NDArray[np.float16]
MANIFEST, FORMAT = "manifest.json", 2
MOMENTS, CLASS = "moments.npy", "cls"
CAPTION, STATES = {False: "txt", True: "long.txt"}, {False: "text.npy", True: "long.npy"}
"""Of the short and of the long caption."""
ALLOWED = (MOMENTS, CLASS, *CAPTION.values(), *STATES.values())
"""Members that a sample may have; anything else is refused, and nothing is ever unpickled."""


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
class TextOrigin:
    """What the states of the captions are of."""

    encoder: str
    sha256: str
    dim: int
    """Channels d of a state."""
    length: int
    """Most states l of a caption."""


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
    long_captions: bool = False
    """Whether each image has two captions."""
    text: TextOrigin | None = None
    """None: captions without states, or classes."""


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        ShardError: there is none, it is damaged or of a newer version, or its shards are not there.
    """
    path = folder / MANIFEST
    try:
        found = from_dict(Manifest, json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise ShardError(f"{path} is not there: make shards with lina cache, and let it end") from error
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
    if not len(found.mean) == len(found.std) == found.latent_shape[0]:
        raise ShardError(f"{path}: mean and std are not of the {found.latent_shape[0]} channels")
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


def half_header(shape: tuple[int, ...]) -> bytes:
    """The head of npy's format for half-precision numbers of a shape."""
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return file.getvalue()


def to_array(data: bytes, where: str) -> npt.NDArray[Any]:
    """An array in npy's format; objects, which would have to be unpickled, are refused."""
    file = io.BytesIO(data)
    # NumPy reads a header as Python's source: a damaged one raises what the compiler has.
    try:
        version = npy.read_magic(file)
        shape, fortran, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
        if dtype.hasobject or fortran:
            raise ValueError(f"an array of {dtype}, in {'columns' if fortran else 'rows'}")
        return np.frombuffer(data, dtype=dtype, offset=file.tell()).reshape(shape)
    except Exception as error:
        raise ShardError(f"{where}: no array that can be read: {error}") from error
