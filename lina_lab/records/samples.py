"""The images that a cell generated, beside held-out ones, as numbers: what reports show side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from lina_lab.util.files import atomic

Pixels = npt.NDArray[np.uint8]
BLANK = 255
"""Shade where no held-out image is."""


@dataclass(frozen=True, kw_only=True)
class SampleSheet:
    """Generated and held-out images of the same classes or captions."""

    images: Pixels
    """Generated, uint8 [rows, columns, H, W, 3 or 1]: a row for each class or caption, the noise of image i the same in
    all cells. As they are shown: gray images are dark where they are high."""
    real: Pixels
    """Held-out images of the same shape; a row begins with those that there are, and the rest is BLANK."""
    real_counts: npt.NDArray[np.int64]
    """Held-out images in each row."""
    titles: tuple[str, ...]
    """Class or caption of each row; empty text for a model without a condition."""

    def write(self, path: Path) -> None:
        """Write it as NPZ; a reader finds the whole file or none."""
        with atomic(path) as draft, draft.open("wb") as file:
            np.savez_compressed(
                file,
                images=self.images,
                real=self.real,
                real_counts=self.real_counts,
                titles=np.array(self.titles, dtype=np.str_),
            )


def padded(images: Sequence[Pixels], like: Pixels) -> Pixels:
    """Return a row [columns, H, W, C] of these images [n, H, W, C] each, and BLANK after them.

    Args:
        images: n arrays [H, W, C], at most as many as there are columns.
        like: a row of that shape.
    """
    row = np.full_like(like, BLANK)
    for index, image in enumerate(images):
        row[index] = image
    return row


def read_sheet(path: Path) -> SampleSheet:
    """Read what `SampleSheet.write` wrote.

    Raises:
        ValueError: the file is damaged or is no sheet of samples.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            titles = tuple(str(title) for title in file["titles"])
            sheet = SampleSheet(
                images=file["images"], real=file["real"], real_counts=file["real_counts"], titles=titles
            )
    except (BadZipFile, KeyError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is no sheet of samples: {error}") from error
    if sheet.images.dtype != np.uint8 or sheet.images.ndim != 5 or sheet.images.shape != sheet.real.shape:
        raise ValueError(f"{path} is no sheet of samples: images {sheet.images.shape}, real {sheet.real.shape}")
    return sheet
