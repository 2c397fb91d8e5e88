"""Images and stored statistics to compare with: npz in ADM's layout, a folder of pictures, or WebDataset shards."""

import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy
from PIL import Image

from lina_lab.data.shards.sources import PICTURE_ERRORS, PICTURES, files_of, pictures_in
from lina_lab.evaluation.moments import Gaussian

Pixels = npt.NDArray[np.uint8]
PORTION = 64
IMAGES = "arr_0.npy"


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Stored moments of a reference."""

    pool: Gaussian
    spatial: Gaussian | None


def has_images(path: Path) -> bool:
    """Whether there are images, and not stored statistics alone."""
    return path.is_dir() or IMAGES in _members(path)


def read_images(path: Path, portion: int = PORTION) -> Iterator[Pixels]:
    """Images in portions, uint8 [n, H, W, 3]; of a folder in the order of their names, those of folders in it too; of
    a folder of shards (.tar) the pictures in them.

    Raises:
        ValueError: nothing that holds images, or a damaged file.
    """
    return _from_folder(path, portion) if path.is_dir() else _whole(path, _from_npz(path, portion))


def _whole(path: Path, portions: Iterator[Pixels]) -> Iterator[Pixels]:
    try:
        yield from portions
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def read_statistics(path: Path) -> Statistics | None:
    """What an npz stores beside, or in place of, images: `mu`, `sigma`, and for sFID `mu_s`, `sigma_s`; None: nothing.

    Raises:
        ValueError: arrays that are no moments.
    """
    if path.is_dir() or not {"mu.npy", "sigma.npy"} <= _members(path):
        return None
    with np.load(path, allow_pickle=False) as arrays:
        pool = _gaussian(path, arrays["mu"], arrays["sigma"])
        spatial = _gaussian(path, arrays["mu_s"], arrays["sigma_s"]) if {"mu_s", "sigma_s"} <= {*arrays} else None
    return Statistics(pool=pool, spatial=spatial)


def _gaussian(path: Path, mean: npt.NDArray[np.floating], covariance: npt.NDArray[np.floating]) -> Gaussian:
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"{path} holds a mean {list(mean.shape)} and a covariance {list(covariance.shape)}")
    return Gaussian(mean=mean.astype(np.float64), covariance=covariance.astype(np.float64))


def _members(path: Path) -> set[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return set(archive.namelist())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no such file") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path} is no npz file that can be read: {error}") from error


def _from_npz(path: Path, portion: int) -> Iterator[Pixels]:
    """Read bit by bit: 50,000 images of 256 pixels are 10 GB."""
    if IMAGES not in _members(path):
        raise ValueError(f"{path} holds {', '.join(sorted(_members(path))) or 'nothing'}, and no images ({IMAGES})")
    with zipfile.ZipFile(path) as archive, archive.open(IMAGES) as file:
        version = npy.read_magic(file)
        shape, fortran, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or fortran:
            raise ValueError(
                f"{path} holds {dtype}{list(shape)} under arr_0, and images are uint8 [n, height, width, 3]"
            )
        size = math.prod(shape[1:])
        for start in range(0, shape[0], portion):
            count = min(portion, shape[0] - start)
            data = file.read(count * size)
            if len(data) != count * size:
                raise ValueError(f"{path} ends in the middle of image {start + len(data) // size}")
            yield np.frombuffer(data, dtype=np.uint8).reshape(count, *shape[1:]).copy()


def _from_folder(path: Path, portion: int) -> Iterator[Pixels]:
    tars, files = files_of(path)
    if tars:
        yield from _stacked(path, (_picture(*each) for tar in tars for each in pictures_in(tar)), portion)
        return
    if not files:
        raise ValueError(f"{path} holds no pictures ({', '.join(PICTURES)}), and no shards (.tar)")
    yield from _stacked(path, (_picture(str(file), file.read_bytes()) for file in files), portion)


def _stacked(path: Path, pictures: Iterator[Pixels], portion: int) -> Iterator[Pixels]:
    while images := list(islice(pictures, portion)):
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            raise ValueError(f"{path} holds pictures of several sizes: {sorted(shapes)}")
        yield np.stack(images)


def _picture(name: str, data: bytes) -> Pixels:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"))
    except PICTURE_ERRORS as error:
        raise ValueError(f"{name} is no picture that can be read: {error}") from error
