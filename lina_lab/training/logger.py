"""MLflow's logger of Lightning, with the metrics sent in batches."""

from collections.abc import Mapping
from time import time

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only
from mlflow.entities import Metric

MAX_BATCH = 1000
"""MLflow takes at most 1,000 metrics a request."""


class BatchedMLFlowLogger(MLFlowLogger):
    """Logs to a run that exists already, many steps a request: one request a step costs more than a small step.

    The run's end and status belong to whoever made the run.
    """

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        super().__init__(tracking_uri=tracking_uri, run_id=run_id)
        self._waiting: list[Metric] = []

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        now = int(time() * 1000)
        self._waiting += [Metric(name, value, now, step or 0) for name, value in metrics.items() if name != "epoch"]
        if len(self._waiting) >= MAX_BATCH:
            self.flush()

    @rank_zero_only
    def log_hyperparams(self, params: object) -> None:
        """Nothing: the run holds them since it was made, and Lightning would cut them at 250 characters."""

    @rank_zero_only
    def flush(self) -> None:
        """Send what waits. What could not be sent goes on waiting."""
        while self._waiting:
            self.experiment.log_batch(self._run_id, metrics=self._waiting[:MAX_BATCH])
            del self._waiting[:MAX_BATCH]

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        self.flush()
