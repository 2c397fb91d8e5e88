"""Files that are written whole or not at all, and their hashes."""

import hashlib
import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, finds the old one or the new one whole."""
    draft = path.with_name(path.name + ".draft")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def sha256(path: Path) -> str:
    """Of a file's contents, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
