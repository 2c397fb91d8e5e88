"""One trial: a frozen configuration in, a typed result out."""

import logging
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import lightning as L
from lightning.pytorch.callbacks import Callback

from lina_lab.config import TrialConfig
from lina_lab.data import DATA
from lina_lab.files import CANCEL_FILE, PICTURE_FILE
from lina_lab.training.callbacks import (
    CancelCheck,
    CancelledError,
    DivergedError,
    DivergenceStop,
    ExponentialAverage,
    ProgressReport,
    Report,
    SampleGrid,
    Stopwatch,
)
from lina_lab.training.checkpoints import Checkpoints, newest
from lina_lab.training.logger import MetricStream
from lina_lab.training.module import LinaModule


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """What a trial came to."""

    status: Literal["done", "diverged", "cancelled"]
    images_seen: int
    steps: int
    """Optimizer steps."""
    metrics: dict[str, float]
    """Last value of each logged metric."""
    parameters: int
    trainable_parameters: int
    images_per_second: float
    """Training alone: validation and pictures are not in it."""
    fit_seconds: float
    """Wall time inside `Trainer.fit`, this time."""
    peak_memory_mib: float
    """Largest resident memory of the process so far."""
    error: str | None = None
    """Why it diverged or was cancelled."""
    resumed_at: int | None = None
    """Step at which it was taken up again; None: it started at the beginning."""
    problems: tuple[str, ...] = ()
    """What went wrong beside training."""


def run_trial(
    config: TrialConfig, folder: Path, *, tracking: tuple[str, str] | None = None, report: Report | None = None
) -> TrialResult:
    """Train one model, and leave checkpoints and a grid of pictures in `folder`.

    Goes on from the newest whole checkpoint that it finds there. Two runs of one configuration on one machine give the
    same losses, bit for bit, however often one of them was interrupted.

    Args:
        config: the trial.
        folder: an existing folder of the trial's own.
        tracking: MLflow's tracking URI and the id of an existing run to send the metrics to; None: nowhere. What the
            store does not take is left in the folder, see `logger.deliver_unsent`.
        report: called behind each step with images seen and the training loss.

    Raises:
        KeyboardInterrupt: on Ctrl-C, after Lightning has closed the loggers. (SIGTERM raises Lightning's
            SIGTERMException, a SystemExit.)
    """
    checkpoint, problems = newest(folder)
    module, watch, keeper = LinaModule(config), Stopwatch(), Checkpoints(folder)
    average = ExponentialAverage(config.ema)
    pictures = SampleGrid(config.sampling, folder / PICTURE_FILE, average)
    logger = None if tracking is None else MetricStream(*tracking, folder)
    callbacks: list[Callback] = [
        watch,
        average,
        DivergenceStop(config.trainer.divergence_factor, config.trainer.divergence_steps),
        CancelCheck(folder / CANCEL_FILE),
        keeper,
    ]
    if config.sampling.images_per_class:
        callbacks.append(pictures)
    if report is not None:
        callbacks.append(ProgressReport(report))
    with _quiet_lightning():
        trainer = L.Trainer(
            accelerator="auto",
            devices=1,
            precision=config.trainer.precision,
            max_epochs=config.epochs,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            log_every_n_steps=config.trainer.log_every_n_steps,
            logger=logger or False,
            callbacks=callbacks,
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        status: Literal["done", "diverged", "cancelled"] = "done"
        error, start = None, time.perf_counter()
        with _interruptible(trainer):
            try:
                data = DATA[config.data.name](config)
                trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
            except DivergedError as diverged:
                status, error = "diverged", str(diverged)
            except CancelledError as cancelled:
                status, error = "cancelled", str(cancelled)
    seconds = time.perf_counter() - start
    logged = {name: float(value) for name, value in trainer.logged_metrics.items() if name != "step"}
    problems += [problem for problem in (pictures.problem, logger and logger.problem) if problem]
    return TrialResult(
        status=status,
        images_seen=module.images_seen,
        steps=trainer.global_step,
        metrics=keeper.metrics | logged,
        parameters=sum(p.numel() for p in module.model.parameters()),
        trainable_parameters=sum(p.numel() for p in module.model.parameters() if p.requires_grad),
        images_per_second=module.images_seen / max(watch.training - watch.validating, 1e-9),
        fit_seconds=seconds,
        peak_memory_mib=peak_memory_mib(),
        error=error,
        resumed_at=None if checkpoint is None else int(checkpoint.stem.split("-")[1]),
        problems=tuple(problems),
    )


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far."""
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@contextmanager
def _interruptible(trainer: L.Trainer) -> Iterator[None]:
    """Make Lightning's answer to Ctrl-C a KeyboardInterrupt again.

    Lightning closes its loggers, then calls `sys.exit(1)` and leaves SIGINT ignored: a second Ctrl-C would be lost.
    """
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from stop
        raise
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's greetings, and its advice that does not hold for data in memory, off the terminal."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
            warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
