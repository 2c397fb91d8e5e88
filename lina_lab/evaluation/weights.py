"""A trained model to sample from: out of a cell, a checkpoint, a model's folder or an official download."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lina_lab.data.batch import DATA_STATE
from lina_lab.data.shards.format import MANIFEST
from lina_lab.evaluation.posthoc import of_length
from lina_lab.model import LINA
from lina_lab.model.saved import Which, read_saved
from lina_lab.records.weights import locate

DATA_STATES = (DATA_STATE, "DigitsDataModule", "LatentsDataModule", "ShapesDataModule", "ShardsDataModule")
"""Names of the data module's state in checkpoints: today's, and the class names that version 0.1 wrote."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model and what identifies it."""

    model: LINA
    sha256: str
    """SHA-256 of the file of its weights."""
    weights: str
    """ema, raw, or ema and its length; "as saved" for a model's folder, which has one kind."""
    encoder: str | None = None
    """The text encoder that it was trained with, where captions came without states."""
    encoder_sha256: str | None = None
    shards: str | None = None
    """The folder of the shards that it was trained on, if it is still there."""
    assumptions: tuple[str, ...] = ()
    """One sentence for each field of the model that official weights do not show."""


def load_trained(
    source: Path | str,
    which: Which = "ema",
    known: Mapping[str, object] | None = None,
    runs: Path = Path("runs"),
    ema: float | None = None,
) -> Trained:
    """Read a model.

    Args:
        source: a checkpoint `step-*.ckpt`, a cell's folder (its newest checkpoint), a folder of `save_model`, a
            download of the authors' weights, or runs:/ID for a cell's run in MLflow.
        which: the averaged or the raw weights of a checkpoint.
        known: fields of the model that official weights do not show; see `lina convert`.
        runs: the folder of all results, for runs:/ID.
        ema: length of the averaged weights, which are rebuilt, see `posthoc`; None: those that the checkpoint holds.

    Raises:
        ValueError: there is no model, or not a whole one, its weights are not all numbers, or averaged weights of that
            length cannot be rebuilt.
    """
    located = locate(str(source), runs)
    saved = read_saved(located, which, known=known)
    saved = saved if ema is None else of_length(saved, located.path, ema)
    checkpoint = saved.checkpoint
    trained_on = checkpoint["hyper_parameters"]["data"] if checkpoint else {}
    path = trained_on.get("path")
    data: dict[str, Any] = next((checkpoint[name] for name in DATA_STATES if name in checkpoint), {})
    return Trained(
        model=saved.model(),
        sha256=located.sha256,
        weights=saved.which,
        encoder=trained_on.get("encoder"),
        encoder_sha256=data.get("encoder_sha256"),
        shards=path if path is not None and (Path(path) / MANIFEST).is_file() else None,
        assumptions=saved.assumptions,
    )


def load(
    source: Path | str,
    which: Which = "ema",
    known: Mapping[str, object] | None = None,
    runs: Path = Path("runs"),
    ema: float | None = None,
) -> LINA:
    """The trained model of a cell, a checkpoint, a model's folder or an official download, in eval mode.

    What official weights do not show is assumed, and a warning says it.

    Args:
        source: see `load_trained`.
        which: see `load_trained`.
        known: see `load_trained`.
        runs: see `load_trained`.
        ema: see `load_trained`.

    Raises:
        ValueError: there is no model, or not a whole one.
    """
    trained = load_trained(source, which, known, runs, ema)
    if trained.assumptions:
        warnings.warn(f"assumed, not in the weights: {'; '.join(trained.assumptions)}", stacklevel=2)
    return trained.model
