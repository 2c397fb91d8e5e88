"""The files of a folder, and what of it is not used: every file is either used or counted."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Endings of images."""
SHARD = ".tar"
PARQUET, ARROW = ".parquet", ".arrow"
HIDDEN = "hidden files and folders"
BROKEN = "broken links"


class LeftOut:
    """What was found and is not used: how many of each kind, with the first one as an example."""

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self._examples: dict[str, str] = {}

    def add(self, kind: str, name: str | Path) -> None:
        """Count one; `kind` is a plural, and `name` says which it is."""
        self.counts[kind] += 1
        self._examples.setdefault(kind, printable(name))

    def __str__(self) -> str:
        parts = [f"{count:,} {kind} (such as {self._examples[kind]})" for kind, count in self.counts.items()]
        return f"left out: {', '.join(parts)}" if parts else "nothing was left out"


@dataclass(frozen=True)
class Damages:
    """Images that cannot be used: the first ends the command, or up to a limit they are left out."""

    limit: float = 0.0
    """Largest share of the images."""
    found: dict[str, str] = field(default_factory=dict)
    """Name of an image -> what is wrong with it."""

    def note(self, name: str, problem: str) -> None:
        """Note a damaged image.

        Raises:
            ValueError: none may be left out.
        """
        if not self.limit:
            raise ValueError(problem)
        self.found[name] = problem

    def check(self, images: int, others: Mapping[str, str] | None = None) -> None:
        """Compare with the limit.

        Args:
            images: number of all images, damaged ones included.
            others: further damaged images, as `found` has them.

        Raises:
            ValueError: there are more than the limit allows.
        """
        every = {**self.found, **(others or {})}
        if len(every) > self.limit * images:
            allowed = f"max_skipped={self.limit} allows" if self.limit else "on_error=raise allows"
            first = next(iter(every.values()))
            raise ValueError(f"{len(every)} damaged images of {images:,} are more than {allowed}: {first}")


@dataclass(frozen=True)
class Listing:
    """The files of a folder and its subfolders, in the order of their names."""

    tars: list[Path]
    pictures: list[Path]
    others: list[Path]
    """Captions, and whatever else lies there."""
    folders: list[str]
    """Names of the folders directly in it."""

    @property
    def tables(self) -> list[Path]:
        """Those of the others that may hold pictures: Parquet, and Arrow files of Hugging Face's `datasets`."""
        return [file for file in self.others if file.suffix.lower() in (PARQUET, ARROW)]


def printable(name: str | Path) -> str:
    """A name for messages: file names may be no text in UTF-8."""
    return os.fsencode(name).decode("utf-8", errors="replace")


def files_of(folder: Path, left_out: LeftOut, out: Path | None = None) -> Listing:
    """List a folder. Linked files and folders count as those that they lead to; hidden ones are left out.

    Args:
        folder: to list.
        left_out: gets what is not listed.
        out: a folder that may lie in it and is no part of it.

    Raises:
        ValueError: it holds both shards and pictures, or a link leads back to a folder that the link lies in.
        OSError: a folder cannot be read.
    """
    here, excluded = folder.resolve(), None if out is None else out.resolve()
    if here == excluded:
        raise ValueError(f"out={out} is the folder of the images: give another one, which may lie in it")
    files: list[Path] = []
    folders: list[str] = []
    waiting: list[tuple[Path, tuple[Path, ...]]] = [(folder, (here,))]
    while waiting:
        parent, above = waiting.pop()
        for entry in sorted(os.scandir(parent), key=lambda entry: entry.name):
            path = parent / entry.name
            # __MACOSX: the resource forks that macOS puts into archives.
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                left_out.add(HIDDEN, path)
            elif entry.is_dir():
                own = path.resolve() if entry.is_symlink() else above[-1] / entry.name
                if own in above:
                    raise ValueError(f"{printable(path)} links to a folder that it lies in")
                if own != excluded:
                    waiting.append((path, (*above, own)))
                    folders += [entry.name] if parent == folder else []
            elif entry.is_file():
                files.append(path)
            else:
                left_out.add(BROKEN, path)
    found = Listing([], [], [], folders)
    for file in sorted(files):
        ending = file.suffix.lower()
        (found.tars if ending == SHARD else found.pictures if ending in PICTURES else found.others).append(file)
    if found.tars and found.pictures:
        which = f"shards ({found.tars[0]}) and pictures ({found.pictures[0]})"
        raise ValueError(f"{folder} holds both {which}: which are meant?")
    return found


def leave_out(files: list[Path], left_out: LeftOut) -> None:
    """Count files that are not used by their endings."""
    for file in files:
        left_out.add(f"files {file.suffix.lower()}" if file.suffix else "files without an ending", file)
