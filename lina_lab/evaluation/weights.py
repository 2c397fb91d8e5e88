"""A trained model to sample from: out of a trial's checkpoint, a cell's folder, or a model's folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lina_lab.config import LinaConfig, from_stored
from lina_lab.data.batch import DATA_STATE
from lina_lab.model import LINA, load_model
from lina_lab.model.folder import WEIGHTS, not_finite
from lina_lab.records.files import CHECKPOINTS
from lina_lab.util.errors import first_line
from lina_lab.util.files import sha256

Which = Literal["ema", "raw"]
PREFIX = "model."
STATES = {"ema": "state_dict", "raw": "current_model_state"}
"""Lightning's averaging callbacks keep the averaged weights under the usual name, and the raw ones beside them."""
DATA_STATES = (DATA_STATE, "DigitsDataModule", "LatentsDataModule", "ShapesDataModule", "ShardsDataModule")
"""Names of the data module's state in checkpoints: today's, and the class names that version 0.1 wrote."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model and what identifies it."""

    model: LINA
    sha256: str
    """SHA-256 of the file of its weights."""
    weights: str
    """ema or raw; "as saved" for a model's folder, which has one kind."""
    encoder: str | None = None
    """The text encoder that it was trained with, where captions came without states."""
    encoder_sha256: str | None = None


def load_trained(path: Path, which: Which = "ema") -> Trained:
    """Read a model.

    Args:
        path: a checkpoint `step-*.ckpt`, a cell's folder (its newest checkpoint), or a folder of `save_model`.
        which: the averaged or the raw weights of a checkpoint.

    Raises:
        ValueError: there is no model, or not a whole one, or its weights are not all numbers.
    """
    if (path / WEIGHTS).exists():
        model = load_model(path).eval()
        _check_finite(path, model)
        return Trained(model=model, sha256=sha256(path / WEIGHTS), weights="as saved")
    if path.is_dir():
        found = sorted(path.glob(f"{CHECKPOINTS}.ckpt"))
        if not found:
            raise ValueError(f"{path} holds neither a model nor a checkpoint ({CHECKPOINTS}.ckpt)")
        path = found[-1]
    try:
        # On disk until it is needed: only one of the states is.
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        config = from_stored(LinaConfig, saved["hyper_parameters"]["model"], within="model")
        state = {n.removeprefix(PREFIX): v for n, v in saved[STATES[which]].items() if n.startswith(PREFIX)}
        model = LINA(config)
        model.load_state_dict(state)
    except Exception as error:
        raise ValueError(f"{path} is not a whole checkpoint of a trial: {first_line(error)}") from error
    _check_finite(path, model)
    data: dict[str, Any] = next((saved[name] for name in DATA_STATES if name in saved), {})
    return Trained(
        model=model.eval(),
        sha256=sha256(path),
        weights=which,
        encoder=saved["hyper_parameters"]["data"].get("encoder"),
        encoder_sha256=data.get("encoder_sha256"),
    )


def _check_finite(path: Path, model: LINA) -> None:
    if broken := not_finite(model.state_dict()):
        raise ValueError(f"{path}: weights are not finite ({broken})")


def load(path: Path | str, which: Which = "ema") -> LINA:
    """The trained model of a cell's folder, a checkpoint, or a folder of `save_model`; see `load_trained`.

    Raises:
        ValueError: there is no model, or not a whole one.
    """
    return load_trained(Path(path), which).model
