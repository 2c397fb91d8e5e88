"""MLflow as the run store: the names that the study layer writes and the analysis reads."""

import logging
from typing import Final

KIND: Final = "lina.kind"
"""`study` or `cell`"""
CELL: Final = "lina.cell"
"""A cell's config_hash."""
STATUS: Final = "lina.status"
"""How an attempt at a cell ended, or what the study's cells came to."""
ERROR: Final = "lina.error"
SEED: Final = "lina.seed"
AXIS: Final = "lina.axis."
"""Prefix of the tags that hold a cell's values of the varied fields for people, to filter by."""
NOTE: Final = "mlflow.note.content"
"""MLflow's UI shows it as the run's description."""
STUDY: Final = "lina.study"
"""The study's definition as JSON: in a tag, so that a copied or moved folder is whole."""
FORMAT: Final = "lina.format"
"""Version of these names, on the study's run; a store without it is of version 1."""
FORMAT_VERSION: Final = 1
AXES: Final = "lina.axes"
"""A cell's values of the varied fields as JSON."""
TRAIN_LOSS: Final = "train/loss"
"""A step's minibatch loss, over images seen."""
EVALUATION: Final = "eval/"
"""Prefix of the metrics that say how good generated images are."""
PARAMETERS: Final = "trainable_parameters"
IMAGES_PER_SECOND: Final = "images_per_second"


def quiet_logs() -> None:
    """Keep MLflow's notes on its tables off the terminal, and the errors that it both prints and raises."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
