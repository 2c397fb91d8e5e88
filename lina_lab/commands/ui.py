"""Open MLflow's user interface on the run store, to compare cells while they train and after.

  lina ui [runs=FOLDER] [port=5000]

Ctrl-C stops it.
"""

import os
import sys
from pathlib import Path

from pydantic.dataclasses import dataclass

from lina_lab.config import CHECKS, PathsConfig
from lina_lab.config.checks import PositiveInt
from lina_lab.config.grammar import Command


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class UiConfig:
    """Fields of `lina ui`."""

    runs: str = PathsConfig().runs
    """Folder of the runs."""
    tracking_uri: str | None = None
    """MLflow's store; null: `mlflow.db` in the folder of runs."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 opens it to other machines."""
    port: PositiveInt = 5000
    """Port to listen at."""


def run(config: UiConfig) -> int:
    """Become MLflow's server, so that signals reach it; returns only if it cannot start.

    Raises:
        ValueError: there is no run store.
    """
    store = config.tracking_uri
    if store is None:
        database = Path(config.runs).resolve() / "mlflow.db"
        if not database.exists():
            raise ValueError(f"there is no run store {database}: run a study first, or name runs=FOLDER")
        from lina_lab.util.compat.mlflow import relocate_artifacts

        if os.access(database, os.W_OK):  # else its pictures are looked for where they were
            relocate_artifacts(database)
        store = f"sqlite:///{database}"
    listening = ["--host", config.host, "--port", str(config.port), "--workers", "1"]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store, *listening])


COMMAND = Command(config=UiConfig, run=run, doc=__doc__)
