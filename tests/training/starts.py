"""Trials that start from others, and what they leave."""

from pathlib import Path
from typing import Any

import torch

from lina_lab.config import TrialConfig
from lina_lab.records.result import Progress, TrialResult
from lina_lab.records.weights import locate
from lina_lab.training.trial import run_trial
from tests.training.test_resume import KilledError, final

STATES = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers")


def run(config: TrialConfig, folder: Path, *, kill_at: int | None = None) -> tuple[TrialResult, dict[int, float]]:
    """The result, and the training loss of each step by the images seen before it."""
    folder.mkdir(exist_ok=True, parents=True)
    losses: dict[int, float] = {}

    def report(progress: Progress) -> None:
        losses[progress.images] = progress.loss
        if kill_at is not None and progress.images == kill_at:
            raise KilledError

    return run_trial(config, folder, report=report), losses


def path_of(folder: Path, **fields: Any) -> dict[str, Any]:
    return {"source": str(folder), "sha256": locate(str(folder)).sha256, **fields}


def weights_of(folder: Path, which: str = "state_dict") -> dict[str, torch.Tensor]:
    return {name.removeprefix("model."): value for name, value in final(folder)[which].items()}  # type: ignore[attr-defined]
