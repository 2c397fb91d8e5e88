"""Ways to start the process group that trains one cell. So far there is one: this process."""

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


def check_devices(wanted: int, workers: int) -> None:
    """Refuse more devices than this machine has; without a GPU its processor is one, which workers share.

    Raises:
        ValueError: too many.
    """
    import torch

    there = torch.cuda.device_count()
    if there and wanted > there:
        raise ValueError(f"{workers} workers need {wanted} devices, and this machine has {there} GPUs")
    if not there and wanted > workers:
        raise ValueError(
            f"study.resources.devices={wanted // workers} is more than this machine has: no GPU, and one processor"
        )
