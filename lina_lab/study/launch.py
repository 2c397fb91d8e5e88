"""Ways to start the process group that trains one cell. So far there is one: this process."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lina_lab.config import TrialConfig

if TYPE_CHECKING:
    from lina_lab.training.callbacks import Report
    from lina_lab.training.trial import TrialResult

Tracking = tuple[str, str]
"""MLflow's tracking URI and the id of the cell's run."""


class Launch(Protocol):
    """Trains one cell in `folder` and returns what came of it; what a cell raises comes out."""

    def __call__(self, config: TrialConfig, folder: Path, *, tracking: Tracking, report: "Report") -> "TrialResult": ...


def in_this_process() -> Launch:
    """Train on this machine, here. Imports torch and Lightning, which takes seconds: once, before the first cell."""
    from lina_lab.training.trial import run_trial

    return run_trial


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(i) for i in range(torch.cuda.device_count())] if named is None else [d for d in named.split(",") if d]


def check_devices(devices: int, workers: int) -> None:
    """Refuse more devices than this machine has; without a GPU its processor is one, which workers share.

    Raises:
        ValueError: too many.
    """
    there = len(gpus())
    if devices > 1:
        has = f"{there} GPUs" if there else "no GPU, and one processor"
        raise ValueError(
            f"study.resources.devices={devices}: a cell is trained on one device so far, and this machine has {has}; "
            "give study.resources.devices=1"
        )
    if there and workers > there:
        raise ValueError(f"workers={workers} is more than the {there} GPUs of this machine")
