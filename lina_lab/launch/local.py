"""Training in this process."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lina_lab.config import ResourcesConfig, TrialConfig
from lina_lab.launch.contract import Launch, refuse_job
from lina_lab.records.result import Report, TrialResult
from lina_lab.records.runstore import TrackingRun
from lina_lab.util.imports import free_cycles, gc_paused


@contextmanager
def in_this_process(resources: ResourcesConfig) -> Iterator[Launch]:
    """Train here. Imports torch and Lightning, which takes seconds: once, before the first cell."""
    with gc_paused():
        from lina_lab.training.trial import run_trial
    # What was imported stays: the first look of `free_cycles` would take a second for it.
    gc.freeze()

    study = resources

    def launch(
        config: TrialConfig,
        folder: Path,
        *,
        tracking: TrackingRun | None,
        report: Report,
        resources: ResourcesConfig | None = None,
    ) -> TrialResult:
        refuse_job(folder)
        # Here, not after a cell: the traceback of one that failed would hold all that it names.
        free_cycles()
        return run_trial(config, folder, tracking=tracking, report=report, resources=resources or study)

    yield launch
