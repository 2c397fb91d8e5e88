"""Images to encode that `metadata.jsonl` or `metadata.csv` name, as Hugging Face's `imagefolder` has it."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lina_lab.data.shards.listing import Damages, LeftOut, Listing, leave_out, printable
from lina_lab.data.shards.samples import Keys, Source, Stored
from lina_lab.data.shards.source_records import Columns, Record, choose, source_of

LINES, ROWS = "metadata.jsonl", "metadata.csv"
FILE_NAME = "file_name"
"""The column that names a picture, from the folder of the metadata."""
Rows = Mapping[Path, list[tuple[str, dict[str, Any]]]]
"""File of metadata -> name for messages and values of each of its rows."""


def metadata_of(listing: Listing) -> Rows:
    """The files of metadata in a folder; other files of such a name, which name no pictures, are left out.

    Raises:
        ValueError: a file is damaged.
    """
    found = {file: list(_rows(file)) for file in listing.others if file.name in (LINES, ROWS)}
    return {file: rows for file, rows in found.items() if rows and FILE_NAME in rows[0][1]}


def columns_of(metadata: Rows, keys: Keys) -> Columns:
    """The columns of captions or of a class in metadata.

    Raises:
        ValueError: it is not clear which are meant.
    """
    file, rows = next(iter(metadata.items()))
    names = dict.fromkeys(name for _, values in rows for name in values)
    return choose([name for name in names if name != FILE_NAME], keys, printable(file))


def in_metadata(
    folder: Path, listing: Listing, metadata: Rows, columns: Columns, left_out: LeftOut, damages: Damages
) -> Source:
    """The pictures that metadata name.

    Args:
        folder: of the images.
        listing: its files.
        metadata: see `metadata_of`.
        columns: see `columns_of`.
        left_out: gets what is not used.
        damages: gets pictures without a row, and rows without a picture.

    Raises:
        ValueError: a picture has two rows, or one of those in `damages` ends it.
    """
    leave_out([file for file in listing.others if file not in metadata], left_out)
    pictures, seen, records = set(listing.pictures), dict[Path, str](), []
    for file, rows in metadata.items():
        for where, values in rows:
            name = values.get(FILE_NAME)
            picture = file.parent / str(name)
            if not isinstance(name, str) or picture not in pictures:
                damages.note(where, f"{where} names {name}, and no such picture is there")
                continue
            if picture in seen:
                raise ValueError(f"{where} names {printable(name)}, as {seen[picture]} does")
            seen[picture] = where
            image = Stored(str(picture), picture)
            records.append(Record(str(picture.relative_to(folder)), where, image, file, values))
    for picture in listing.pictures:
        if picture not in seen:
            name = str(picture.relative_to(folder))
            damages.note(name, f"{printable(picture)} is named in no {LINES} or {ROWS}, and others are")
    return source_of(records, columns, left_out, damages)


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        # Editors on Windows put a mark of the byte order first, which is no part of the text.
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{printable(file)} is no text in UTF-8: {error}") from error
    if file.name == ROWS:
        reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", strict=True)
        try:
            for row in reader:
                yield f"{printable(file)}, line {reader.line_num}", {k: v or None for k, v in row.items()}
        except csv.Error as error:
            raise ValueError(f"{printable(file)}, line {reader.line_num}: {error}") from error
        return
    # Not `splitlines`: a caption may hold other marks that end a line for Python.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{printable(file)}, line {number}"
            try:
                found = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where} is not JSON: {error}") from error
            if not isinstance(found, dict):
                raise ValueError(f"{where} is no object")
            yield where, found
