"""What lies in the files and folders that a study reads, so that they may be moved and not exchanged."""

import hashlib
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from lina_lab.config import StudyConfig
from lina_lab.config.history import FILES

MANIFEST = "manifest.json"
"""Holds the hashes of a folder's shards (`lina_lab.data.shards.format`, which imports more)."""
WORDS = "words"
"""The built-in text encoder, which lies nowhere."""
PIECE = 2**16
"""Bytes that are read at the start and at the end of a file: weights and arrays change in all of their parts."""
READ_FILES = 1000
"""Files of a folder that are opened; of others, such as those of a large folder of pictures, name and size count."""


def places_of(study: StudyConfig, base: Mapping[str, Any]) -> dict[str, str]:
    """What the study's fields in `history.FILES` name: field -> value, or FIELD=VALUE -> value where an axis varies it.

    Args:
        study: its axes may vary such a field.
        base: a trial's nested data.
    """
    varied = {name: values for axis in study.axes.values() for name, values in axis.items()}
    found: dict[str, str] = {}
    for name in FILES:
        values = {f"{name}={value}": value for value in varied[name]} if name in varied else {}
        values = values if name in varied else {name: reduce(getitem, name.split("."), base)}
        found |= {key: str(value) for key, value in values.items() if value not in (None, WORDS)}
    return found


def contents_of(places: Mapping[str, str]) -> dict[str, str]:
    """A fingerprint of what each place holds; a place that is not on this machine has none.

    Args:
        places: see `places_of`.
    """
    found = {key: fingerprint(Path(value)) for key, value in places.items()}
    return {key: value for key, value in found.items() if value is not None}


def fingerprint(path: Path) -> str | None:
    """16 hex digits that tell a file or a folder from another one, wherever it lies; None: it is not there.

    Of a folder of shards, its manifest. Otherwise names, sizes, and the two ends of each file; hidden files, which
    tools leave behind, do not count.
    """
    if not path.exists():
        return None
    digest = hashlib.sha256()
    if (path / MANIFEST).is_file():
        digest.update((path / MANIFEST).read_bytes())
        return digest.hexdigest()[:16]
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    shown = {file: file.relative_to(path).as_posix() for file in files}
    counted = [file for file, name in shown.items() if not any(part.startswith(".") for part in Path(name).parts)]
    for index, file in enumerate(counted):
        size = file.stat().st_size
        digest.update(f"{shown[file]} {size} ".encode())
        if index < READ_FILES:
            with file.open("rb") as opened:
                digest.update(opened.read(PIECE))
                opened.seek(max(0, size - PIECE))
                digest.update(opened.read(PIECE))
    return digest.hexdigest()[:16]
