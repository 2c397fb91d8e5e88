"""Images and stored statistics to compare with: npz in ADM's layout, a folder of images, or WebDataset shards."""

import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from lina_lab.data.pixels import Pixels
from lina_lab.data.shards.format import read_header
from lina_lab.data.shards.listing import PICTURES, Damages, LeftOut, files_of, leave_out
from lina_lab.data.shards.source_files import Stored
from lina_lab.data.shards.source_tars import samples_in
from lina_lab.evaluation.moments import Gaussian
from lina_lab.util.errors import first_line

READ_BATCH_SIZE = 64
"""Images read together."""
IMAGES = "arr_0.npy"
"""Member of an npz that holds images, in ADM's layout."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Stored moments of a reference set."""

    pool: Gaussian
    """Moments of Inception's pooled features, for FID."""
    spatial: Gaussian | None
    """Moments of Inception's spatial features, for sFID; None: not stored."""


def has_images(path: Path) -> bool:
    """Whether a file or folder holds images, and not only stored statistics."""
    return path.is_dir() or IMAGES in _members(path)


def read_images(path: Path, batch_size: int = READ_BATCH_SIZE, left_out: LeftOut | None = None) -> Iterator[Pixels]:
    """Read images in batches, uint8 [n, H, W, 3], as people see them.

    Args:
        path: an npz; or a folder, whose images come in the order of their names, with those in its subfolders; or a
            folder of shards (.tar).
        batch_size: images of a batch; the last one may have fewer.
        left_out: gets what lies in a folder and is not read.

    Raises:
        ValueError: there are no images, or a file is damaged.
    """
    return _from_folder(path, batch_size, left_out or LeftOut()) if path.is_dir() else _from_npz(path, batch_size)


def read_statistics(path: Path) -> Statistics | None:
    """The moments that an npz stores: `mu` and `sigma`, and for sFID `mu_s` and `sigma_s`; None: it stores none.

    Raises:
        ValueError: the arrays are no moments.
    """
    if path.is_dir() or not {"mu.npy", "sigma.npy"} <= _members(path):
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("mu", "sigma", "mu_s", "sigma_s") if name in file}
    except Exception as error:
        # NumPy reads a header as Python's source: of a damaged one it raises whatever the parser raises.
        raise ValueError(f"{path} is damaged: {first_line(error)}") from error
    spatial = _gaussian(path, arrays["mu_s"], arrays["sigma_s"]) if {"mu_s", "sigma_s"} <= {*arrays} else None
    return Statistics(pool=_gaussian(path, arrays["mu"], arrays["sigma"]), spatial=spatial)


def _gaussian(path: Path, mean: npt.NDArray[np.floating], covariance: npt.NDArray[np.floating]) -> Gaussian:
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"{path} holds a mean {list(mean.shape)} and a covariance {list(covariance.shape)}")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{path} holds moments that are not finite")
    return Gaussian(mean=mean.astype(np.float64), covariance=covariance.astype(np.float64))


def _members(path: Path) -> set[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return set(archive.namelist())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no such file") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path} is no npz file that can be read: {error}") from error


def _from_npz(path: Path, batch_size: int) -> Iterator[Pixels]:
    """Read batch by batch, where `np.load` would read all at once: 50,000 images of 256 pixels are 10 GB."""
    if IMAGES not in _members(path):
        raise ValueError(f"{path} holds {', '.join(sorted(_members(path))) or 'nothing'}, and no images ({IMAGES})")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(IMAGES) as file:
            shape, fortran, dtype = _header(path, file)
            if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or fortran:
                raise ValueError(
                    f"{path} holds {dtype}{list(shape)} under arr_0, and images are uint8 [n, height, width, 3]"
                )
            size = math.prod(shape[1:])
            for start in range(0, shape[0], batch_size):
                count = min(batch_size, shape[0] - start)
                data = file.read(count * size)
                if len(data) != count * size:
                    raise ValueError(f"{path} ends in the middle of image {start + len(data) // size}")
                yield np.frombuffer(data, dtype=np.uint8).reshape(count, *shape[1:]).copy()
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        return read_header(file)
    except Exception as error:
        # As in `read_statistics`.
        raise ValueError(f"{path} is damaged: {first_line(error)}") from error


def _from_folder(path: Path, batch_size: int, left_out: LeftOut) -> Iterator[Pixels]:
    listing = files_of(path, left_out)
    leave_out(listing.others, left_out)
    if not listing.tars and not listing.pictures:
        raise ValueError(f"{path} holds no pictures ({', '.join(PICTURES)}), and no shards (.tar)")
    in_tars = (sample.image for tar in listing.tars for sample in samples_in(tar, path, left_out, Damages()))
    in_files = (Stored(str(file), file) for file in listing.pictures)
    images = (np.asarray(each.picture()) for each in chain(in_tars, in_files))
    while batch := list(islice(images, batch_size)):
        shapes = {image.shape for image in batch}
        if len(shapes) > 1:
            raise ValueError(f"{path} holds pictures of several sizes: {sorted(shapes)}")
        yield np.stack(batch)
