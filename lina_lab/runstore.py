"""MLflow as the run store: the names that the study layer writes and the analysis reads."""

import logging
from typing import Final

KIND: Final = "lina.kind"
"""`study` or `cell`"""
CELL: Final = "lina.cell"
"""A cell's identity."""
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
AXES: Final = "lina.axes"
"""A cell's values of the varied fields as JSON."""
TRAIN_LOSS: Final = "train/loss"
"""A step's minibatch loss, over images seen."""
PARAMETERS: Final = "trainable_parameters"
IMAGES_PER_SECOND: Final = "images_per_second"


def quiet_logs() -> None:
    """Keep MLflow's notes on its tables off the terminal, and the errors that it both prints and raises."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
