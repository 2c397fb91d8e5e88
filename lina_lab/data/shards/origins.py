"""Whether images, classes and captions are still those that a shard was made of."""

import hashlib
import os
import time
from collections.abc import Sequence

from lina_lab.data.shards.samples import Sample

SETTLED = 2.0
"""Seconds after which a file's times tell a later change: some file systems count in whole seconds."""


def names_of(samples: Sequence[Sample]) -> str:
    """A hash of the names of samples, in their order."""
    return hashlib.sha256(os.fsencode("\n".join(sample.name for sample in samples))).hexdigest()


def contents_of(samples: Sequence[Sample]) -> str:
    """A hash of all that shards hold of samples: names, classes, and the bytes of images and captions.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for sample in samples:
        parts = [os.fsencode(sample.name), str(sample.label).encode(), sample.image.read()]
        for part in (*parts, *(caption.read() for caption in sample.captions.values())):
            # The length first: the border between two parts is a part of what is hashed.
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def times_of(samples: Sequence[Sample]) -> str | None:
    """A hash of the sizes and times of the files of samples, which is cheap; None: one was changed just now.

    Equal hashes mean equal contents. Others may be of equal contents as well, as after a copy: see `contents_of`.

    Raises:
        OSError: a file is not there.
    """
    stored = [part for sample in samples for part in (sample.image, *sample.captions.values())]
    found = {path: path.stat() for path in {part.path for part in stored}}
    if max(max(each.st_mtime, each.st_ctime) for each in found.values()) > time.time() - SETTLED:
        return None
    # The time of the last change of the file's record as well: a program can set the other one.
    times = {path: (each.st_size, each.st_mtime_ns, each.st_ctime_ns) for path, each in found.items()}
    lines = [f"{sample.name} {sample.label}" for sample in samples]
    lines += [f"{times[part.path]} {part.place}" for part in stored]
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()
