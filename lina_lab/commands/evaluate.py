"""Measure the quality of images: FID, Inception score, precision and recall, and others.

  lina evaluate samples=PATH reference=PATH [features=pixels] [run=MLFLOW_RUN]

Samples are an npz of images (`lina sample` writes one), a folder of pictures, or a folder of WebDataset shards. The
reference is one of these, or an npz of stored statistics in ADM's format. Metrics that the reference does not allow are
left out.
"""

from typing import Literal

from pydantic.dataclasses import dataclass

from lina_lab.config import CHECKS
from lina_lab.config.checks import PositiveInt
from lina_lab.config.grammar import Command


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class EvaluateConfig:
    """Fields of `lina evaluate`."""

    samples: str
    """Images to evaluate: an npz, a folder of pictures, or a folder of shards."""
    reference: str
    """Images, or stored statistics, to compare them with."""
    features: Literal["inception", "pixels"] = "inception"
    """Features that images are compared by."""
    inception: str | None = None
    """File of the Inception network's weights; null: those of torch-fidelity, in torch's cache of downloads."""
    out: str | None = None
    """File of the result; null: metrics.json next to the samples."""
    batch_size: PositiveInt = 64
    """Images processed together."""
    run: str | None = None
    """ID of an MLflow run to log the metrics to."""
    tracking_uri: str | None = None
    """MLflow's store that has the run."""


COMMAND = Command(
    config=EvaluateConfig, run="lina_lab.commands.evaluate_images:run", doc=__doc__, renamed={"portion": "batch_size"}
)
