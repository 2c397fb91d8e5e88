"""MLflow's own figures of the machine while a trial runs: processors, memory, disk, network and GPUs."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L

from lina_lab.config import ResourcesConfig
from lina_lab.records.runstore import TrackingRun

END_SECONDS = 5.0
"""How long the end of a trial waits for a store that does not take the last figures."""
AGAIN_SECONDS = 10.0
"""Pause after a store did not answer, which ends MLflow's own loop (3.17)."""


@contextmanager
def system_metrics(
    seconds: float | None, tracking: TrackingRun | None, resources: ResourcesConfig, trainer: L.Trainer
) -> Iterator[None]:
    """Send the machine's figures to a run of MLflow while the block runs, from one process of each machine.

    Args:
        seconds: between two samples; None: nothing is sent.
        tracking: the run; None: nothing is sent.
        resources: several machines each have a name in their metrics.
        trainer: knows which process of its machine this is.
    """
    if seconds is None or tracking is None or trainer.local_rank:
        yield
        return
    # MLflow takes a second to import.
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    ended = threading.Event()

    class Monitor(SystemMetricsMonitor):
        """MLflow's, which goes on when a store that was away is back."""

        def monitor(self) -> None:
            while not ended.is_set():
                super().monitor()  # type: ignore[no-untyped-call]
                ended.wait(AGAIN_SECONDS)

    monitor = Monitor(  # type: ignore[no-untyped-call]
        tracking.run_id,
        sampling_interval=seconds,
        resume_logging=True,
        node_id=socket.gethostname() if resources.nodes > 1 else None,
        tracking_uri=tracking.uri,
    )
    monitor.start()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        ended.set()
        # It waits for the store, which may be away for minutes.
        end = threading.Thread(target=monitor.finish, name="system metrics", daemon=True)
        end.start()
        end.join(END_SECONDS)
