"""Read the images that cells generated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from lina_lab.records.files import SAMPLES_FILE
from lina_lab.records.samples import SampleSheet, read_sheet
from lina_lab.util.compat.mlflow import artifact_file, store_errors

from .cells import SAMPLED

MAX_VARIANTS = 12
"""Most variants in a figure of generated images: more cannot be compared at a glance."""


@dataclass(frozen=True, kw_only=True)
class CellSheet:
    """The images of a cell, and which cell it is."""

    variant: str
    size: Any
    seed: int
    cell: str
    task: str
    data: str
    """Name of the data set."""
    sheet: SampleSheet


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Generated images of the largest size's first seed."""

    sheets: tuple[CellSheet, ...] = ()
    """In the order of the variants."""
    missing: tuple[str, ...] = ()
    """A sentence for what is not in `sheets` though the cells generated images."""


def read_samples(uri: str, database: Path | None, cells: pd.DataFrame, variants: Sequence[str], study: str) -> Samples:
    """Read the images of each variant's first seed at its task's largest size.

    They are artifacts of the cell's run; where these are gone, the cell's folder beside a store's file is read.

    Args:
        uri: the store.
        database: its file; None: it is a server.
        cells: those that count, see `cells.cell_rows`.
        variants: their names, in order.
        study: name of the study.
    """
    sheets, without, sentences = [], [], []
    with TemporaryDirectory() as scratch:
        for (task, data), group in cells[cells[SAMPLED] != ""].groupby([SAMPLED, "data_name"]):
            largest = group[group["size"] == group.groupby("size")["parameters"].mean().idxmax()]
            chosen = largest.sort_values("seed").drop_duplicates("variant").set_index("variant")
            known = [variant for variant in variants if variant in chosen.index]
            if len(known) > MAX_VARIANTS:
                shown = f"the first {MAX_VARIANTS} of {len(known)} variants"
                sentences.append(f"Generated images are shown of {shown}; the others are in their cells' folders.")
            for variant in known[:MAX_VARIANTS]:
                row: dict[str, Any] = {**chosen.loc[variant], "variant": variant}
                try:
                    path = _file(uri, database, row, study, Path(scratch, row["run"]))
                    sheet = None if path is None else read_sheet(path)
                except store_errors(OSError, ValueError) as error:
                    sentences.append(f"The generated images of {variant} cannot be read: {error}.")
                    continue
                if sheet is None:
                    without.append(variant)
                else:
                    named = {name: row[name] for name in ("variant", "size", "seed", "cell")}
                    sheets.append(CellSheet(**named, task=str(task), data=str(data), sheet=sheet))
    if without:
        names = "; ".join(without)
        sentences.append(f"No {SAMPLES_FILE} (cells of an earlier version leave none), so not shown: {names}.")
    return Samples(sheets=tuple(sheets), missing=tuple(sentences))


def _file(uri: str, database: Path | None, row: Mapping[str, Any], study: str, scratch: Path) -> Path | None:
    scratch.mkdir()
    found = artifact_file(uri, row["run"], SAMPLES_FILE, database, scratch)
    if found is None and database is not None:
        beside = database.parent / study / row["cell"] / SAMPLES_FILE
        found = beside if beside.is_file() else None
    return found
