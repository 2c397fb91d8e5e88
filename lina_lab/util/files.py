"""Files that are written whole or not at all, and their hashes."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

BLOCK = 4096
"""Bytes that are searched at once for a line's end."""
DRAFT = ".draft"
"""Ending of a file that is still being written."""


@contextmanager
def atomic(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Write a file so that a reader, or a crash, finds the old one or the new one whole.

    Yields a temporary path beside `path`. When the block ends, what was written there replaces `path`. When the block
    raises, the temporary file is removed and `path` is left as it was.

    Args:
        path: the file; its folder exists.
        durable: whether the contents must be on disk before the file gets its name. Without it the file survives a
            crash of the process, but not always one of the machine.

    Raises:
        OSError: the file cannot be written, or the block wrote none.
    """
    draft = path.with_name(path.name + DRAFT)
    try:
        yield draft
        if durable:
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a text file with `atomic`."""
    with atomic(path, durable=durable) as draft:
        draft.write_text(text)


def append_lines(path: Path, text: str, *, durable: bool = False) -> None:
    """Append whole lines to a file, after removing a last line that has no end.

    A process that died, or that had no space left, leaves such a line; what is appended to it could not be read. The
    caller sees to it that nobody else writes meanwhile.

    Args:
        path: the file; it is made if it does not exist.
        text: the lines, each with its end.
        durable: whether they must be on disk before this returns.

    Raises:
        OSError: the file cannot be written; a part of the lines may be there.
    """
    with path.open("ab+") as file:
        cut_torn_line(file)
        file.write(text.encode())
        if durable:
            file.flush()
            os.fsync(file.fileno())


def cut_torn_line(file: BinaryIO) -> None:
    """Remove what comes after the last line's end from a file that is open for reading and writing."""
    end = position = file.seek(0, os.SEEK_END)
    while position:
        start = max(0, position - BLOCK)
        file.seek(start)
        block = file.read(position - start)
        position = start + block.rfind(b"\n") + 1
        if b"\n" in block:
            break
    if position < end:
        file.truncate(position)
    file.seek(0, os.SEEK_END)


def read_json(path: Path) -> Any:
    """The contents of a JSON file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is a folder, no text or no JSON; one sentence names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except IsADirectoryError as error:
        raise ValueError(f"{path} is a folder where a file should be: remove it") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it") from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file's contents, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
