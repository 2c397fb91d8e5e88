"""The record of a cell in its own folder: the first copy of its result. The stores hold others."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from lina_lab.records import files
from lina_lab.records.checkpoints import delete
from lina_lab.records.curve import lines_of, read_curve
from lina_lab.records.result import TrialResult
from lina_lab.records.status import CellStatus
from lina_lab.util.files import read_json, write_atomically


@dataclass(frozen=True, kw_only=True)
class Record:
    """How an attempt at a cell ended."""

    config_hash: str
    axes: dict[str, Any]
    seed: int
    status: CellStatus
    mlflow_run: str
    result: TrialResult | None = None
    """None if the attempt came to no result."""
    error: str | None = None
    source: dict[str, str] | None = None
    """MLflow's tags of the code that trained it: command, commit, whether files differed from it. None in records of
    earlier versions."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Record":
        """The record from its JSON, of this version or an earlier one.

        Raises:
            KeyError, TypeError, ValueError: the data are not a record.
        """
        # `identity` is the hash's name in version 0.1.
        fields = {"config_hash" if name == "identity" else name: value for name, value in data.items()}
        result = fields.get("result")
        fields["result"] = None if result is None else TrialResult.from_dict(result)
        return cls(**{**fields, "status": CellStatus(fields["status"])})


def begin_attempt(folder: Path, mlflow_run: str) -> None:
    """Remove what an earlier attempt left and what must not pass for this one's.

    Its checkpoints go too if their metrics were logged to another run and are not kept here (versions before 0.3): the
    curve in this run would begin at the checkpoint.
    """
    for name in (files.PICTURE_FILE, files.SAMPLES_FILE, files.ERROR_FILE, files.RESULT_FILE):
        (folder / name).unlink(missing_ok=True)
    if not follow_run(folder, mlflow_run):
        for path in list(folder.glob(files.CHECKPOINTS)):
            delete(path)


def follow_run(folder: Path, mlflow_run: str, *, anew: bool = False) -> bool:
    """Note the run that a cell's metrics go to; if they went to another one so far, have its curve sent to this one.

    Args:
        folder: the cell's.
        mlflow_run: the run.
        anew: send the curve to the same run too, which may have lost it.

    Returns:
        Whether this run has the curve so far, or will have it when what waits in the folder is delivered.
    """
    same = noted_run(folder) == mlflow_run
    if same and not anew:
        return True
    curve = read_curve(folder)
    if curve is not None:
        write_atomically(folder / files.UNSENT_FILE, lines_of(curve))
    if same:
        return True
    if curve is None:
        (folder / files.UNSENT_FILE).unlink(missing_ok=True)
        (folder / files.CURVE_FILE).unlink(missing_ok=True)
    write_atomically(folder / files.RUN_FILE, mlflow_run + "\n")
    return curve is not None


def noted_run(folder: Path) -> str | None:
    """The run that a cell's metrics go to; None: none is noted."""
    try:
        return (folder / files.RUN_FILE).read_text().strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def write_config(folder: Path, config: Mapping[str, Any]) -> Path:
    """Write a cell's resolved configuration, which is plain nested data."""
    path = folder / files.CONFIG_FILE
    write_atomically(path, yaml.safe_dump(config, sort_keys=False))
    return path


def write_record(folder: Path, record: Record) -> Path:
    """Write the record."""
    path = folder / files.RESULT_FILE
    write_atomically(path, json.dumps(asdict(record), indent=1) + "\n")
    return path


def read_record(folder: Path, config_hash: str) -> Record | None:
    """The record in a cell's folder; None if there is no readable one, or it is of another configuration."""
    try:
        record = Record.from_dict(read_json(folder / files.RESULT_FILE))
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return record if record.config_hash == config_hash else None
