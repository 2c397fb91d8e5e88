"""The format of a folder of WebDataset shards of cached latents, and the index of a shard.

A folder holds `manifest.json` and tar files. A sample is `KEY.moments.npy` (float16 [2, 2C, h, w]: mean and log
variance of the posterior, of the image and of its mirror image; of an autoencoder whose latents are certain float16
[2, C, h, w]: the latents; without an autoencoder float16 [2, C, h, w]: their pixels in -1..1), and `KEY.cls` (its
class) or `KEY.txt` (its caption, and `KEY.long.txt` a longer one), with `KEY.text.npy` (and `KEY.long.npy`: float16
[l, d], states of a text encoder).

A member's header notes the CRC-32 of its contents in place of its owner's name. That of moments notes there the CRC-32
of the image's, and in place of its group's name that of the mirror image's. Other readers of tar files ignore both.
"""

import hashlib
import io
import json
import math
import tarfile
import zlib
from collections import Counter, OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from lina_lab.config.checks import from_dict

Half = npt.NDArray[np.float16]
MANIFEST, FORMAT = "manifest.json", 4
MOMENTS, CLASS = "moments.npy", "cls"
CAPTION, STATES = {False: "txt", True: "long.txt"}, {False: "text.npy", True: "long.npy"}
"""Members for the short (False) and the long (True) caption, and for their states."""
MAX_CLASSES = 1_000_000
SUM = "crc32:"
"""What a noted sum begins with."""
ALLOWED = (MOMENTS, CLASS, *CAPTION.values(), *STATES.values())
"""Members that a sample may have. Anything else is refused, and nothing is ever unpickled."""


class ShardError(ValueError):
    """A shard does not hold what it should. The message names shard and key."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file, as the manifest lists it."""

    name: str
    images: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class TextOrigin:
    """The text encoder of the captions' states, and the states' size."""

    encoder: str
    sha256: str
    dim: int
    """Channels d of a state."""
    length: int
    """Largest number l of states of a caption."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder of shards holds."""

    format: int
    """Version of this format: 4 where latents are certain, 3 where pixels are stored, else 2."""
    images: int
    latent_shape: tuple[int, int, int]
    """C, h, w"""
    mean: tuple[float, ...]
    """Mean of the latents, for each channel."""
    std: tuple[float, ...]
    """Standard deviation of the latents, for each channel."""
    resolution: int
    """Pixels of an image's side."""
    vae: str | None
    """The autoencoder, as the command named it; None: the latents are pixels in -1..1."""
    vae_sha256: str
    """Empty where there is no autoencoder."""
    classes: tuple[str, ...] | None
    """Names of the classes; None: there are captions instead."""
    shards: tuple[Shard, ...]
    long_captions: bool = False
    """Whether each image has a long caption, too."""
    text: TextOrigin | None = None
    """None: the captions have no states, or there are classes."""

    certain: bool = False
    """Whether the autoencoder gives one latent and no posterior, as AutoencoderDC and AutoencoderTiny do."""

    @property
    def sampled(self) -> bool:
        """Whether latents are sampled from what is stored: mean and log variance."""
        return self.vae is not None and not self.certain

    @property
    def stored_channels(self) -> int:
        """Channels of what is stored of an image: mean and log variance of its latent, the latent, or its pixels."""
        return self.latent_shape[0] * (2 if self.sampled else 1)

    @property
    def contents(self) -> str:
        """A hash of all that decides what is read: the shards, in their order, and how latents are scaled."""
        parts = ([shard.sha256 for shard in self.shards], self.mean, self.std, self.classes)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


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
    except (ValueError, OSError, RecursionError) as error:
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
    if not all(math.isfinite(number) for number in found.mean) or not all(0 < std < math.inf for std in found.std):
        raise ShardError(f"{path}: mean {list(found.mean)} and std {list(found.std)} cannot scale latents")
    if min(found.latent_shape) < 1 or any(shard.images < 1 for shard in found.shards):
        raise ShardError(f"{path}: latents {list(found.latent_shape)}, or a shard, that hold nothing")
    if sum(shard.images for shard in found.shards) != found.images:
        raise ShardError(f"{path}: its shards hold {sum(s.images for s in found.shards)} images, not {found.images}")
    return found


@dataclass(frozen=True, kw_only=True)
class Index:
    """Where the samples of a shard lie in its file."""

    keys: tuple[str, ...]
    members: dict[str, npt.NDArray[np.int64]]
    """Member -> its offset and size in each sample: [images, 2]."""
    sums: dict[str, npt.NDArray[np.int64]]
    """Member -> its CRC-32 in each sample, and for moments that of the mirror image: [images, 2]; -1: none."""


def read_index(path: Path, images: int) -> Index:
    """Index a shard by its headers.

    Raises:
        ShardError: it is truncated, holds another number of samples, or a member that no sample may have.
    """
    found: OrderedDict[str, dict[str, tuple[int, int, int, int]]] = OrderedDict()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, kind = member.name.partition(".")
                if not member.isfile() or kind not in ALLOWED:
                    raise ShardError(f"{path.name}, key {key}: {member.name} is none of {', '.join(ALLOWED)}: refused")
                if kind in found.setdefault(key, {}):
                    raise ShardError(f"{path.name}, key {key}: it has {kind} twice")
                noted = (_noted_sum(member.uname), _noted_sum(member.gname))
                found[key][kind] = (member.offset_data, member.size, *noted)
    except (tarfile.TarError, EOFError) as error:
        raise ShardError(f"{path.name} is no tar that can be read to its end: {error}") from error
    if len(found) != images:
        raise ShardError(f"{path.name} holds {len(found)} samples, and {images} in the manifest")
    # What most samples have, all must have.
    kinds = {MOMENTS, *Counter(frozenset(members) for members in found.values()).most_common(1)[0][0]}
    for key, own in found.items():
        if own.keys() != kinds:
            has, needs = (", ".join(sorted(names)) for names in (own, kinds))
            raise ShardError(f"{path.name}, key {key}: it has {has}, and needs {needs}")
    rows = {kind: np.array([each[kind] for each in found.values()], dtype=np.int64) for kind in kinds}
    members, sums = ({kind: each[:, part] for kind, each in rows.items()} for part in (slice(0, 2), slice(2, 4)))
    return Index(keys=tuple(found), members=members, sums=sums)


def member(key: str, kind: str, value: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A member of a sample: its header, with the sums of its contents, and its contents.

    Args:
        key: of the sample.
        kind: of the member.
        value: an array for `.npy`, else what `str` writes.
    """
    if isinstance(value, np.ndarray):
        file = io.BytesIO()
        npy.write_array(file, value, allow_pickle=False)
        data = file.getvalue()
    else:
        data = str(value).encode()
    parts = [data]
    if kind == MOMENTS:
        parts = [half.tobytes() for half in value]
    info = tarfile.TarInfo(f"{key}.{kind}")
    info.size, info.mode = len(data), 0o444
    info.uname, info.gname = (*(f"{SUM}{zlib.crc32(part):08x}" for part in parts), "")[:2]
    return info, data


def _noted_sum(name: str) -> int:
    """The sum that a header notes in place of a name; -1: none, as in shards of version 0.2."""
    return int(name.removeprefix(SUM), 16) if name.startswith(SUM) else -1


def class_number(text: bytes, below: int) -> int | None:
    """The class that the contents of a `cls` member name; None: no number below the limit."""
    written = text.strip()
    digits = written.lstrip(b"0") or b"0"
    # Python refuses numbers of more than 4,300 digits with an error of its own.
    if not written.isdigit() or len(digits) > len(str(below)):
        return None
    number = int(digits)
    return number if number < below else None


def half_header(shape: tuple[int, ...]) -> bytes:
    """The header of an npy file that holds half-precision numbers of a shape."""
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return file.getvalue()


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype of an array in npy's format; the file is left at its first number.

    Raises:
        ValueError: there is no such header.
    """
    version = npy.read_magic(file)
    return (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)


def to_array(data: bytes, where: str) -> npt.NDArray[Any]:
    """An array from the bytes of an npy file. Objects are refused, because they would have to be unpickled.

    The array shares its memory with `data`: `numpy.lib.format.read_array`, which copies, takes three times as long for
    the states of a long caption.

    Raises:
        ShardError: the bytes are no such file, or not a whole one; the message begins with `where`.
    """
    file = io.BytesIO(data)
    # NumPy reads a header as Python's source: of a damaged one it raises whatever the parser raises.
    try:
        shape, fortran, dtype = read_header(file)
        if dtype.hasobject or fortran:
            raise ValueError(f"an array of {dtype}, in {'columns' if fortran else 'rows'}")
        return np.frombuffer(data, dtype=dtype, offset=file.tell()).reshape(shape)
    except Exception as error:
        raise ShardError(f"{where}: no array that can be read: {error}") from error
