"""Images and stored statistics to compare with: npz in ADM's layout, a folder of images, or WebDataset shards."""

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from lina_lab.data.pixels import Pixels
from lina_lab.data.shards.format import read_header
from lina_lab.data.shards.listing import PICTURES, Damages, LeftOut, files_of, leave_out, printable
from lina_lab.data.shards.samples import Keys, Part, Stored
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


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images of which number and size are known before the rest is read."""

    path: Path
    count: int
    size: tuple[int, int]
    """Height and width of the first image in pixels, which all others must have."""
    batches: Callable[[int], Iterator[Pixels]]
    """Reads all images, uint8 [n, H, W, 3], in batches of so many; raises ValueError where an image is damaged or has
    another size."""

    @property
    def shown_size(self) -> str:
        """The size for messages."""
        return f"{self.size[0]} x {self.size[1]} pixels"


def open_images(path: Path, left_out: LeftOut | None = None) -> ImageSet:
    """Find out how many images there are, and of what size.

    Args:
        path: an npz; or a folder, whose images come in the order of their names, with those in its subfolders; or a
            folder of shards (.tar).
        left_out: gets what lies in a folder and is not read.

    Raises:
        ValueError: there are no images, or the first one or an index is damaged.
    """
    return _in_folder(path, left_out or LeftOut()) if path.is_dir() else _in_npz(path)


def read_images(path: Path, batch_size: int = READ_BATCH_SIZE) -> Iterator[Pixels]:
    """Read images in batches, as `ImageSet.batches` of `open_images` does."""
    return open_images(path).batches(batch_size)


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


def _in_npz(path: Path) -> ImageSet:
    if IMAGES not in _members(path):
        raise ValueError(f"{path} holds {', '.join(sorted(_members(path))) or 'nothing'}, and no images ({IMAGES})")
    with _opened(path) as file:
        shape, fortran, dtype = _header(path, file)
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or fortran:
        raise ValueError(f"{path} holds {dtype}{list(shape)} under arr_0, and images are uint8 [n, height, width, 3]")
    return ImageSet(path=path, count=shape[0], size=shape[1:3], batches=partial(_from_npz, path, shape))


def _from_npz(path: Path, shape: tuple[int, ...], batch_size: int) -> Iterator[Pixels]:
    """Read batch by batch, where `np.load` would read all at once: 50,000 images of 256 pixels are 10 GB."""
    size = math.prod(shape[1:])
    with _opened(path) as file:
        _header(path, file)
        for start in range(0, shape[0], batch_size):
            count = min(batch_size, shape[0] - start)
            data = file.read(count * size)
            if len(data) != count * size:
                raise ValueError(f"{path} ends in the middle of image {start + len(data) // size}")
            yield np.frombuffer(data, dtype=np.uint8).reshape(count, *shape[1:]).copy()


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(IMAGES) as file:
            yield file
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        return read_header(file)
    except Exception as error:
        # As in `read_statistics`.
        raise ValueError(f"{path} is damaged: {first_line(error)}") from error


def _in_folder(path: Path, left_out: LeftOut) -> ImageSet:
    listing = files_of(path, left_out)
    leave_out(listing.others, left_out)
    if not listing.tars and not listing.pictures:
        raise ValueError(f"{path} holds no pictures ({', '.join(PICTURES)}), and no shards (.tar)")
    members = (sample for tar in listing.tars for sample in samples_in(tar, path, Keys(), left_out, Damages()))
    images: list[Part] = [sample.image for sample in members]
    images += [Stored(str(file), file) for file in listing.pictures]
    if not images:
        raise ValueError(f"{path} holds shards without pictures")
    width, height = images[0].picture().size
    batches = partial(_from_folder, path, images, (height, width))
    return ImageSet(path=path, count=len(images), size=(height, width), batches=batches)


def _from_folder(path: Path, images: list[Part], size: tuple[int, int], batch_size: int) -> Iterator[Pixels]:
    for start in range(0, len(images), batch_size):
        batch = []
        for image in images[start : start + batch_size]:
            array = np.asarray(image.picture())
            if array.shape[:2] != size:
                raise ValueError(
                    f"{path} holds pictures of several sizes: {printable(images[0].name)} has {size[0]} x {size[1]} "
                    f"pixels and {printable(image.name)} {array.shape[0]} x {array.shape[1]}"
                )
            batch.append(array)
        yield np.stack(batch)
