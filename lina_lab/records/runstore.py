"""MLflow as the run store: the names that the study layer writes and the analysis reads."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

KIND: Final = "lina.kind"
"""`study` or `cell`"""
CELL: Final = "lina.cell"
"""A cell's config_hash."""
STATUS: Final = "lina.status"
"""How an attempt at a cell ended (`CellStatus`); on the study's run, how many cells have which status."""
ERROR: Final = "lina.error"
SEED: Final = "lina.seed"
PHASE: Final = "lina.phase"
"""What a cell is trained for (`Phase`); a cell without it is one of the comparison."""
AXIS: Final = "lina.axis."
"""Prefix of the tags that hold a cell's values of the varied fields as text, to filter by."""
NOTE: Final = "mlflow.note.content"
"""MLflow's UI shows it as the run's description."""
NOTE_LENGTH: Final = 6000
"""Longest description: MLflow refuses a tag of more than 8,000 characters."""
STUDY: Final = "lina.study"
"""The study's definition as JSON: in a tag, so that a copied or moved folder of runs is complete."""
FORMAT: Final = "lina.format"
"""Version of these names, on the study's run; a store without it is of version 1."""
FORMAT_VERSION: Final = 3
"""Format of a study with cells that are trained again, which readers of an earlier one would take for the others."""
TUNED_FORMAT: Final = 2
"""Format of a study with tuning."""
PLAIN_FORMAT: Final = 1
"""Format of any other study: versions that know no phases can go on with it, and with no other one."""
TUNED_FILE: Final = "tuned.json"
"""Artifact of the study's run: a list with one entry for each tuned variant and size, see `Tuned.to_dict`."""
AXES: Final = "lina.axes"
"""A cell's values of the varied fields as JSON."""
CONFIG: Final = "lina.config"
"""A cell's configuration as JSON, typed; MLflow's parameters hold it as text, to filter by. What exceeds one tag
continues in `lina.config.1`, `lina.config.2`, ...; a store of version 0.1 has none of these."""
CONTENTS: Final = "lina.contents"
"""Fingerprints of what a cell read from files and folders as JSON: data.path -> fingerprint, and so on."""
TAG_LENGTH: Final = 8000
"""MLflow cuts the value of a tag after so many characters (MAX_TAG_VAL_LENGTH in MLflow 3.17)."""
TRAIN_LOSS: Final = "train/loss"
"""Loss of a step's batch, over images seen."""
WATCH: Final = "watch/"
"""Prefix of what one watches while a cell trains. No objective, and none of a trial's metrics. MLflow lists metrics by
name, and its page of a comparison shows the first seven: these and the next come after the losses."""
TRAIN_RATE: Final = f"{WATCH}lr"
TRAIN_NORM: Final = f"{WATCH}gradient_norm"
SPIKES: Final = f"{WATCH}loss_spikes"
WALL: Final = "wall/"
"""Prefix of what is measured of time and memory."""
EVALUATION: Final = "eval/"
"""Prefix of the metrics of generated images."""
VERSIONS: Final = "lina.versions"
"""Code and packages that trained a cell, as JSON: name -> version."""
IMAGES_PER_SECOND: Final = "images_per_second"
THREADS: Final = f"{WALL}threads"


@dataclass(frozen=True, kw_only=True)
class TrackingRun:
    """A run in a tracking store."""

    uri: str
    """MLflow's tracking URI."""
    run_id: str


def config_tags(config: Mapping[str, Any]) -> dict[str, str]:
    """Tags that hold a configuration; `config` is plain nested data."""
    text = json.dumps(config, separators=(",", ":"))
    parts = [text[start : start + TAG_LENGTH] for start in range(0, len(text), TAG_LENGTH)]
    return {_config_tag(index): part for index, part in enumerate(parts)}


def config_from_tags(tags: Mapping[str, str]) -> dict[str, Any] | None:
    """The configuration that a cell's tags hold; None for a run of version 0.1, which has its parameters only."""
    if CONFIG not in tags:
        return None
    text, index = "", 0
    while (part := tags.get(_config_tag(index))) is not None:
        text, index = text + part, index + 1
    # A run that was taken up again may hold the end of an earlier, longer text as well.
    config: dict[str, Any] = json.JSONDecoder().raw_decode(text)[0]
    return config


def _config_tag(index: int) -> str:
    return CONFIG if index == 0 else f"{CONFIG}.{index}"


def quiet_logs() -> None:
    """Keep MLflow's messages about its tables off the terminal, and the errors that it both prints and raises."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
