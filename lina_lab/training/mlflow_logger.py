"""A Lightning logger to an MLflow run: in batches, no point twice, and none lost while the store is unavailable."""

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from lina_lab.records.curve import Point, append_points
from lina_lab.records.files import CHECKPOINTS, CURVE_FILE
from lina_lab.records.runstore import TrackingRun
from lina_lab.training.mlflow_buffer import MAX_BATCH, send, write_unsent
from lina_lab.util.errors import first_line
from lina_lab.util.signals import signals_deferred_for

if TYPE_CHECKING:
    from mlflow import MlflowClient

EVERY_SECONDS = 5.0
"""Longest time that points wait to be sent."""
PAUSE_SECONDS = 10.0
"""Time until a store that did not answer is tried again."""


class BufferedMLflowLogger(Logger):
    """Logs to a run that exists already and may hold a part of the curve. The run's creator ends it.

    Training never waits for the store: points that it does not take are kept, sent again later, written to each
    checkpoint, and to a file when the trial ends.

    Args:
        run: the run.
        folder: the trial's; points that could not be sent when the trial ends are left there.
    """

    name = "mlflow"

    def __init__(self, run: TrackingRun, folder: Path) -> None:
        super().__init__()
        self.tracking_uri, self.run_id, self.folder = run.uri, run.run_id, folder
        self.waiting: list[Point] = []
        self._unkept: list[Point] = []
        self._keeps = True
        self.problem: str | None = None
        self._last: dict[str, int] = {}
        self._sent, self._retry = time.monotonic(), 0.0

    @cached_property
    def client(self) -> "MlflowClient":
        """The client, on the first rank alone: the others never import MLflow, which takes a second."""
        from mlflow import MlflowClient

        return MlflowClient(self.tracking_uri)

    @property
    def version(self) -> str:
        return self.run_id

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        now = int(time.time() * 1000)
        points = [(name, float(value), step or 0, now) for name, value in metrics.items() if name != "epoch"]
        self.waiting += points
        self._unkept += points
        if len(self.waiting) >= MAX_BATCH or time.monotonic() - self._sent > EVERY_SECONDS:
            self.flush()

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Log nothing: the run has had the configuration since it was created."""

    @rank_zero_only
    def resume(self, waiting: Iterable[Point]) -> None:
        """Send again the points that waited when training was interrupted."""
        self.waiting = [*waiting, *self.waiting]
        # An earlier version began a cell that has checkpoints and no curve: one that lacks its beginning would be taken
        # for whole. A cell that goes on with another one's training has neither yet.
        self._keeps = (self.folder / CURVE_FILE).exists() or not any(self.folder.glob(f"{CHECKPOINTS}.ckpt"))

    def kept(self, coming: Sequence[Point] = ()) -> list[Point]:
        """The points that wait, for a checkpoint; all points so far are in the folder.

        Args:
            coming: points that will be logged next; they count as if they had been, here alone.
        """
        if self._keeps and (new := [*self._unkept, *coming]):
            append_points(self.folder, new)
        self._unkept.clear()
        return [*self.waiting, *coming]

    @rank_zero_only
    def flush(self) -> None:
        """Send the points that wait. Those that could not be sent keep waiting."""
        self.kept()
        if time.monotonic() < self._retry:
            return
        from mlflow.exceptions import MlflowException

        try:
            with signals_deferred_for(self.tracking_uri):
                # Steps that are repeated after a checkpoint may have been logged before the interruption.
                send(self.client, self.run_id, self.waiting, self._last)
            self._sent = time.monotonic()
        except MlflowException as error:
            self.problem = f"the tracking store did not take metrics: {first_line(error)}"
            self._retry = time.monotonic() + PAUSE_SECONDS

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        self._retry = 0.0
        self.flush()
        if self.waiting:
            write_unsent(self.folder, self.waiting)
