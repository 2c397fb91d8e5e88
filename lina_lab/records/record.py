"""What is kept of a cell in its own folder: the first copy of its result, of which the stores hold others."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from lina_lab.config import to_dict
from lina_lab.records.files import (
    CHECKPOINTS,
    CONFIG_FILE,
    ERROR_FILE,
    PICTURE_FILE,
    RESULT_FILE,
    RUN_FILE,
    UNSENT_FILE,
)
from lina_lab.study.grid import Cell
from lina_lab.util.files import write_atomically


@dataclass(frozen=True, kw_only=True)
class Record:
    """How an attempt at a cell ended."""

    config_hash: str
    axes: dict[str, Any]
    seed: int
    status: str
    mlflow_run: str
    result: dict[str, Any] | None = None
    """The trial's typed result as plain data; None if it came to none."""
    error: str | None = None


def begin_attempt(folder: Path, mlflow_run: str) -> None:
    """Remove what an earlier attempt left that must not pass for this one's.

    Its progress too if that was logged to another run: the curve in this one would begin where the checkpoint is.
    """
    for name in (PICTURE_FILE, ERROR_FILE, RESULT_FILE):
        (folder / name).unlink(missing_ok=True)
    noted = folder / RUN_FILE
    if not noted.exists() or noted.read_text().strip() != mlflow_run:
        for path in (*folder.glob(CHECKPOINTS), *folder.glob(UNSENT_FILE)):
            path.unlink()
        write_atomically(noted, mlflow_run + "\n")


def write_config(folder: Path, cell: Cell) -> Path:
    """Write the cell's resolved configuration."""
    path = folder / CONFIG_FILE
    write_atomically(path, yaml.safe_dump(to_dict(cell.config), sort_keys=False))
    return path


def write_record(folder: Path, record: Record) -> Path:
    """Write the record."""
    path = folder / RESULT_FILE
    write_atomically(path, json.dumps(asdict(record), indent=1) + "\n")
    return path


def read_record(folder: Path, config_hash: str) -> Record | None:
    """The record in a cell's folder; None if there is none that can be read, or it is of another configuration."""
    try:
        data = json.loads((folder / RESULT_FILE).read_text())
        # Its name up to version 0.1.
        record = Record(**{"config_hash" if name == "identity" else name: value for name, value in data.items()})
    except (FileNotFoundError, json.JSONDecodeError, TypeError, AttributeError):
        return None
    return record if record.config_hash == config_hash else None
