"""Metrics to an MLflow run: in batches, none twice, and none lost while the store is away."""

import time
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from lina_lab.records.runstore import TrackingRun
from lina_lab.training.mlflow_buffer import MAX_BATCH, Point, behind, last_steps, send, write_unsent
from lina_lab.util.signals import signals_deferred_for

if TYPE_CHECKING:
    from mlflow import MlflowClient

EVERY_SECONDS = 5.0
"""What waits is sent at least so often."""
PAUSE_SECONDS = 10.0
"""A store that does not answer is left alone for so long."""


class BufferedMLflowLogger(Logger):
    """Logs to a run that exists already, and may hold a part of the curve. Whoever made the run ends it.

    Training never waits for the store: what it does not take now is kept, offered again, written into each checkpoint
    and, when the trial ends, into a file.

    Args:
        run: the run.
        folder: the trial's; metrics that could not be sent when it ends are left there.
    """

    def __init__(self, run: TrackingRun, folder: Path) -> None:
        super().__init__()
        self.tracking_uri, self.run_id, self.folder = run.uri, run.run_id, folder
        self.waiting: list[Point] = []
        self.problem: str | None = None
        self._last: dict[str, int] = {}
        self._sent, self._retry = time.monotonic(), 0.0

    @cached_property
    def client(self) -> "MlflowClient":
        """Of the first rank alone: the others never import MLflow, which takes a second."""
        from mlflow import MlflowClient

        return MlflowClient(self.tracking_uri)

    @property
    def name(self) -> str:
        return "mlflow"

    @property
    def version(self) -> str:
        return self.run_id

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        now = int(time.time() * 1000)
        self.waiting += [(name, float(value), step or 0, now) for name, value in metrics.items() if name != "epoch"]
        if len(self.waiting) >= MAX_BATCH or time.monotonic() - self._sent > EVERY_SECONDS:
            self.flush()

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run holds them since it was made."""

    @rank_zero_only
    def resume(self, waiting: Iterable[Point]) -> None:
        """Offer what waited when training was interrupted."""
        self.waiting = [*waiting, *self.waiting]

    @rank_zero_only
    def flush(self) -> None:
        """Send what waits. What could not be sent goes on waiting."""
        if time.monotonic() < self._retry:
            return
        from mlflow.exceptions import MlflowException

        try:
            with signals_deferred_for(self.tracking_uri):
                self._send()
            self._sent = time.monotonic()
        except MlflowException as error:
            self.problem = f"the tracking store did not take metrics: {_first_line(error)}"
            self._retry = time.monotonic() + PAUSE_SECONDS

    def _send(self) -> None:
        # Steps that are done again, behind a checkpoint, may have been logged before an interruption.
        self._last = last_steps(self.client, self.run_id, self.waiting, self._last)
        self.waiting = behind(self.waiting, self._last)
        while self.waiting:
            send(self.client, self.run_id, self.waiting[:MAX_BATCH])
            del self.waiting[:MAX_BATCH]

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        self._retry = 0.0
        self.flush()
        if self.waiting:
            write_unsent(self.folder, self.waiting)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300]
