"""Images to encode in tables: Parquet, and Arrow files that Hugging Face's `datasets` writes with `save_to_disk`."""

import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lina_lab.data.shards.listing import PARQUET, PICTURES, Damages, LeftOut, Listing, leave_out, printable
from lina_lab.data.shards.samples import ORDER_SEED, Keys, Part, Source
from lina_lab.data.shards.source_records import Columns, Record, choose, source_of

SPLITS = ("train", "test", "validation", "val", "valid", "dev", "eval")
"""Names of parts of a data set, of which one is meant."""
WINDOW = 256 * 2**20
"""Bytes of the row groups of Parquet whose images are shuffled together: each group is read once."""


@dataclass(frozen=True)
class Rows:
    """Rows that are read together: a row group of Parquet, or a whole file of Arrow, which is mapped into memory."""

    path: Path
    column: str
    """Column of the images."""
    group: int | None
    """None: a file of Arrow."""
    first: int
    """Row of the file that comes first."""
    size: int
    """Bytes of the rows."""

    def image(self, row: int) -> bytes:
        """The picture's file in a row; empty: there is none."""
        images = _mapped(self.path).column(self.column) if self.group is None else _RECENT.images(self)
        value = images[row].as_py()
        return (value.get("bytes") if isinstance(value, dict) else value) or b""


@dataclass(frozen=True)
class InTable(Part):
    """An image in a row of a table."""

    rows: Rows
    row: int
    """Among these rows."""

    def read(self) -> bytes:
        try:
            return self.rows.image(self.row)
        except pa.ArrowException as error:
            raise ValueError(f"{printable(self.path)} cannot be read: {error}") from error

    @property
    def place(self) -> str:
        return f"row {self.rows.first + self.row}"


class _Recent:
    """The images of the row groups of Parquet that were read last: those of two windows."""

    def __init__(self) -> None:
        self._groups: OrderedDict[Rows, Any] = OrderedDict()

    def images(self, rows: Rows) -> Any:
        if rows not in self._groups:
            table = pq.ParquetFile(rows.path).read_row_group(rows.group, columns=[rows.column])
            self._groups[rows] = table.column(rows.column)
            while sum(each.size for each in self._groups) > 2 * WINDOW and len(self._groups) > 1:
                self._groups.popitem(last=False)
        self._groups.move_to_end(rows)
        return self._groups[rows]


_RECENT = _Recent()


def in_tables(folder: Path, listing: Listing, keys: Keys, left_out: LeftOut, damages: Damages) -> Source:
    """The rows of tables.

    Args:
        folder: of the tables.
        listing: its files.
        keys: names of the columns, and of the part of the data set, where the user names them.
        left_out: gets files that are not used.
        damages: gets rows without a caption or a class.

    Raises:
        ValueError: a table is damaged, holds no images, or it is not clear which column or part is meant.
    """
    files = _of_split(folder, listing.tables, keys.split)
    leave_out([file for file in listing.others if file not in files], left_out)
    schemas = {file: _schema(file) for file in files}
    first = schemas[files[0]]
    image = keys.image or _image_column(first, printable(files[0]))
    columns = choose([name for name in first.names if name != image], keys, printable(files[0]))
    used = [image, *columns.captions.values(), *([] if columns.label is None else [columns.label])]
    for file, schema in schemas.items():
        if lacking := [name for name in used if name not in schema.names]:
            raise ValueError(f"{printable(file)} has no column {lacking[0]}: its columns are {', '.join(schema.names)}")
    records = [record for file in files for record in _records(file, folder, image, used[1:])]
    if not records:
        raise ValueError(f"images={folder} holds tables without rows")
    source = source_of(records, columns, left_out, damages, _class_names(first, columns))
    return replace(source, samples=_in_windows(source))


def _of_split(folder: Path, files: Sequence[Path], split: str | None) -> list[Path]:
    """The tables of the part of a data set that is meant.

    Raises:
        ValueError: there are several parts and none is named, or the named one is not there.
    """
    names = {file: _names_of(file, folder) for file in files}
    if split is not None:
        if not (chosen := [file for file in files if split in names[file]]):
            raise ValueError(f"split={split} is not there: {folder} holds {', '.join(printable(f) for f in files[:5])}")
        return chosen
    found = dict.fromkeys(name for own in names.values() for name in own if name in SPLITS)
    if len(found) > 1:
        raise ValueError(
            f"{folder} holds the parts {', '.join(found)} of a data set: split={next(iter(found))} names one"
        )
    return list(files)


def _names_of(file: Path, folder: Path) -> list[str]:
    """What may say which part a file is of: `train-00000-of-00004.parquet`, `train.parquet`, `train/0000.parquet`."""
    stem = re.sub(r"-\d+-of-\d+$", "", file.stem)
    return [*file.relative_to(folder).parts[:-1], stem, stem.rpartition("-")[2]]


def _schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file) if file.suffix.lower() == PARQUET else _mapped(file).schema
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{printable(file)} is no table that can be read: {error}") from error


@cache
def _mapped(file: Path) -> pa.Table:
    """A file of Arrow, as a stream, which `datasets` writes, or as a file of Feather."""
    source = pa.memory_map(str(file))
    try:
        return pa.ipc.open_stream(source).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(source).read_all()


def _image_column(schema: pa.Schema, where: str) -> str:
    """The one column that may hold pictures: of a struct with their bytes, or of bytes with a picture's name.

    Raises:
        ValueError: there is none, or there are several.
    """
    found = [field.name for field in schema if pa.types.is_struct(field.type) and "bytes" in _names(field.type)]
    usual = ("image", *(ending.removeprefix(".") for ending in PICTURES))
    found += [field.name for field in schema if _is_binary(field.type) and field.name.lower() in usual]
    if len(found) != 1:
        has = "several columns of pictures" if found else "no column of pictures that is known by its type or name"
        listed = ", ".join(found or schema.names)
        raise ValueError(f"{where} has {has}: image_key=COLUMN names it ({listed})")
    return str(found[0])


def _names(struct: pa.StructType) -> list[str]:
    return [struct.field(number).name for number in range(struct.num_fields)]


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _class_names(schema: pa.Schema, columns: Columns) -> list[str] | None:
    """The names of classes that `datasets` keeps with the schema; None: there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[columns.label]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _records(file: Path, folder: Path, image: str, columns: list[str]) -> Iterator[Record]:
    name = str(file.relative_to(folder))
    try:
        for rows, values in _groups(file, image, columns):
            for row, own in enumerate(values.to_pylist()):
                number = rows.first + row
                where = f"{printable(file)}, row {number}"
                yield Record(f"{name}/{number}", where, InTable(where, file, rows, row), file, own)
    except pa.ArrowException as error:
        raise ValueError(f"{printable(file)} cannot be read: {error}") from error


def _groups(file: Path, image: str, columns: list[str]) -> Iterator[tuple[Rows, pa.Table]]:
    """The rows that are read together, with the columns other than the image."""
    if file.suffix.lower() != PARQUET:
        table = _mapped(file)
        yield Rows(file, image, None, 0, 0), table.select(columns)
        return
    parquet, first = pq.ParquetFile(file), 0
    for group in range(parquet.num_row_groups):
        about = parquet.metadata.row_group(group)
        yield Rows(file, image, group, first, about.total_byte_size), parquet.read_row_group(group, columns=columns)
        first += about.num_rows


def _in_windows(source: Source) -> tuple[Any, ...]:
    """The samples in the order of the shards, so that a row group of Parquet is read once.

    Groups come in random order, and images are shuffled within a window of groups. Images that are mapped into memory
    are shuffled all together.
    """
    groups = dict[Any, list[Any]]()
    for sample in source.samples:
        rows = sample.image.rows if isinstance(sample.image, InTable) else None
        groups.setdefault(rows if rows is not None and rows.group is not None else None, []).append(sample)
    random, keys = np.random.default_rng(ORDER_SEED), sorted(groups, key=str)
    found, window, size = list[Any](), list[Any](), 0
    for number in random.permutation(len(keys)):
        own = 0 if keys[number] is None else keys[number].size
        if window and size + own > WINDOW:
            found, window, size = [*found, *(window[i] for i in random.permutation(len(window)))], [], 0
        window, size = [*window, *groups[keys[number]]], size + own
    return (*found, *(window[i] for i in random.permutation(len(window))))
