"""What cells of a study with stages started from, and what that cost."""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pandas as pd

from lina_lab.config import TrialConfig, from_stored
from lina_lab.model import count
from lina_lab.records.runstore import CELL
from lina_lab.records.status import CellStatus

from .cells import KEYS
from .configs import config_json

if TYPE_CHECKING:
    from mlflow.entities import Run

LINEAGE = "flops with sources"
"""Column: training FLOPs of the cell and of all that it started from; NaN where that is not a cell of the study."""
BEFORE = "flops before"
"""Column: FLOPs that are not in a checkpoint's images, for what the cell started from; 0 where they are not known."""
STATE = "start state"
"""Column: what the cell takes of its source (`start.state`); empty where it starts from drawn weights."""


def with_lineage(rows: pd.DataFrame, runs: Sequence["Run"]) -> pd.DataFrame:
    """Return `cells.cell_rows` with LINEAGE, BEFORE and STATE, and with the FLOPs that a source decides.

    Args:
        rows: of some of the runs.
        runs: those of all cells of the study.
    """
    trials = {run.data.tags[CELL]: _trial(config_json(run)) for run in runs}
    found = pd.DataFrame([_lineage(trials[cell], trials) for cell in rows["cell"]], rows.index)
    return rows.assign(**{str(name): found[name] for name in found})


def _lineage(trial: TrialConfig, trials: dict[str, TrialConfig]) -> dict[str, Any]:
    source = trials.get(trial.start.cell or "")
    teacher = source.model if source is not None and trial.start.distills else None
    each, total = float(count.flops_per_image(trial.model, teacher)), count.flops_with_sources(trial, trials)
    return {
        "flops_per_image": each,
        "flops": count.training_flops(trial, source),
        LINEAGE: float("nan") if total is None else total,
        BEFORE: 0.0 if total is None else total - each * trial.images_seen,
        STATE: trial.start.state if trial.start.given else "",
    }


@lru_cache(maxsize=8192)
def _trial(config_json: str) -> TrialConfig:
    """Return a configuration, of any seed."""
    return from_stored(TrialConfig, json.loads(config_json))


def source_rows(every: pd.DataFrame) -> pd.DataFrame:
    """Return KEYS and `state` of each cell, by its best attempt: one that is done, otherwise the last one.

    Args:
        every: see `cell_rows`.
    """
    ranked = every.assign(done=every["state"] == CellStatus.DONE).sort_values(["done", "started"])
    last = ranked.drop_duplicates("cell", keep="last")
    return last.sort_values(KEYS[1:])[[*KEYS, "state"]].reset_index(drop=True)
