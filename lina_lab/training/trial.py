"""One trial: a frozen configuration in, a typed result out."""

import logging
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback

from lina_lab import kernels
from lina_lab.config import ResourcesConfig, TrialConfig
from lina_lab.config.cautions import cautions, refusal, unsharded
from lina_lab.config.extras import missing_package
from lina_lab.config.metrics import METRICS
from lina_lab.data import make_data
from lina_lab.records.result import Report, TrialResult
from lina_lab.records.runstore import TrackingRun
from lina_lab.records.status import TrialStatus
from lina_lab.training.callbacks.captions import CaptionAccuracy
from lina_lab.training.callbacks.consistency import ConsistencyCheck, WeightSyncCheck
from lina_lab.training.callbacks.ema import ExponentialAverage
from lina_lab.training.callbacks.ema_profiles import PowerAverages
from lina_lab.training.callbacks.fid import FIDCallback
from lina_lab.training.callbacks.moments import TakeMoments
from lina_lab.training.callbacks.progress import ProgressMeter
from lina_lab.training.callbacks.sample_grid import SampleGrid
from lina_lab.training.callbacks.step_sync import StepSync
from lina_lab.training.callbacks.timing import CommunicationClock, StepProfiler, TrialTimer
from lina_lab.training.checkpoint_files import CheckpointFiles
from lina_lab.training.checkpoints import Checkpoints, newest
from lina_lab.training.distillation import Distillation
from lina_lab.training.divergence import DivergedError
from lina_lab.training.extras import check_budget, make_callbacks, make_loggers
from lina_lab.training.memory import forget_peak_memory, keep_freed_memory, peak_memory_mib
from lina_lab.training.mlflow_logger import BufferedMLflowLogger
from lina_lab.training.module import LinaModule
from lina_lab.training.start import Start, initial, teacher
from lina_lab.training.stopping import CancelledError, PreemptedError, PrunedError, StopSignals
from lina_lab.training.strategy import strategy_for
from lina_lab.training.system_metrics import system_metrics
from lina_lab.training.threads import fixed_threads

ONE_PROCESS = ResourcesConfig()
ENDS = {
    DivergedError: TrialStatus.DIVERGED,
    CancelledError: TrialStatus.CANCELLED,
    PreemptedError: TrialStatus.PREEMPTED,
    PrunedError: TrialStatus.PRUNED,
}
"""How a trial ends that does not reach its budget."""


def run_trial(
    config: TrialConfig,
    folder: Path,
    *,
    tracking: TrackingRun | None = None,
    report: Report | None = None,
    log: Report | None = None,
    resources: ResourcesConfig = ONE_PROCESS,
    requests: StopSignals | None = None,
    environment: Any = None,
) -> TrialResult:
    """Train one model, and leave checkpoints and a grid of pictures in `folder`.

    Resumes from the newest whole checkpoint in the folder; without one, it starts as `config.start` says. Two runs of
    one configuration on one kind of machine give the same losses, bit for bit, however often one of them was
    interrupted and however many processors there are. Where several ranks train it, each calls this, and each returns
    the same result; losses then differ from one rank's by rounding alone.

    Args:
        config: the trial.
        folder: an existing folder of the trial's own, the same for all ranks.
        tracking: existing run that the metrics are sent to; None: nowhere. What the store does not take is left in the
            folder, see `mlflow_buffer.deliver_unsent`.
        report: called after each step, on the first rank.
        log: called once a minute, on every rank.
        resources: the layout of the ranks, and the threads of each.
        requests: signals that ask this process to stop while it trains.
        environment: Lightning's view of the processes; None: this one is alone.

    Raises:
        ValueError: ranks differ in code, packages, configuration or checkpoint, the folder's checkpoint is of another
            trial, the weights to start from are not there or do not fit, the batch cannot be divided, or the trial
            cannot measure what it asks for.
        KeyboardInterrupt, SystemExit: on Ctrl-C, and on SIGTERM where that is an exception
            (`signals.stops_as_exceptions`), after Lightning has closed the loggers.
    """
    with fixed_threads(resources.threads):
        return _train(config, folder, tracking, report, log, resources, requests or StopSignals(), environment)


def _train(
    config: TrialConfig,
    folder: Path,
    tracking: TrackingRun | None,
    report: Report | None,
    log: Report | None,
    resources: ResourcesConfig,
    requests: StopSignals,
    environment: Any,
) -> TrialResult:
    resources.check_batch(config.data.batch_size)
    for sentence in (refusal(config), missing_package(config), unsharded(config, resources), kernels.missing()):
        if sentence is not None:
            raise ValueError(sentence)
    keep_freed_memory()
    forget_peak_memory()
    checkpoint, problems = newest(folder)
    logger = None if tracking is None else BufferedMLflowLogger(tracking, folder)
    start = initial(config, folder) if checkpoint is None else None
    path = (None if start is None else start.checkpoint) if checkpoint is None else checkpoint.path
    module, average = _module_and_average(config, resources, start)
    if config.start.distills:
        module.distillation = Distillation(config.start, teacher(config, folder), module.model)
    timer, communication, profiler = TrialTimer(), CommunicationClock(), StepProfiler()
    meter = ProgressMeter(config, timer, peak_memory_mib, log)
    files, checkpoints = CheckpointFiles(config.checkpoint, config.data.batch_size), Checkpoints(config, folder, logger)
    pictures = SampleGrid(config, folder, average)
    evaluations = _evaluations(config, folder, average)
    powers = PowerAverages(config, folder, average, evaluations)
    with _quiet_lightning():
        trainer = L.Trainer(
            accelerator=resources.accelerator,
            num_nodes=resources.nodes,
            devices=resources.devices,
            strategy=strategy_for(resources, distributed=config.checkpoint.distributed),
            accumulate_grad_batches=resources.accumulate_grad_batches,
            precision=config.trainer.precision,
            max_epochs=config.epochs,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            log_every_n_steps=config.trainer.log_every_n_steps,
            logger=[*([] if logger is None else [logger]), *make_loggers(config, folder)],
            # Lightning calls them in this order.
            callbacks=[
                ConsistencyCheck(config, path),
                *([] if start is None else [TakeMoments(start)]),
                timer,
                communication,
                WeightSyncCheck(),
                average,
                *([powers] if config.ema.profiles else []),
                *evaluations,
                *make_callbacks(config, folder),
                meter,
                StepSync(config, folder, resources, timer, checkpoints, meter, requests, report),
                checkpoints,
                *([pictures] if config.model.kind.generates and config.sampling.images_per_class else []),
            ],
            profiler=profiler,
            plugins=[environment or LightningEnvironment(), files],
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        status = TrialStatus.DONE
        error, begun = None, time.perf_counter()
        data = make_data(config)
        watched = system_metrics(config.trainer.system_metrics_seconds, tracking, resources, trainer)
        # Lightning ends the files too, unless its own end fails.
        with _interruptible(trainer), closing(files), watched:
            try:
                trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
                check_budget(trainer, config)
            except tuple(ENDS) as ended:
                status, error = ENDS[type(ended)], str(ended)
    seconds = time.perf_counter() - begun
    logged = {name: float(value) for name, value in trainer.logged_metrics.items() if name != "step"}
    problems += [
        *cautions(config),
        *(problem for problem in (pictures.problem, powers.problem, logger and logger.problem) if problem),
        *data.problems,
    ]
    trained = timer.training - timer.validating
    return TrialResult(
        status=status,
        images_seen=module.images_seen,
        steps=trainer.global_step,
        metrics=checkpoints.metrics | logged,
        parameters=sum(p.numel() for p in module.model.parameters()),
        trainable_parameters=sum(p.numel() for p in module.model.parameters() if p.requires_grad),
        images_per_second=module.images_seen / max(trained, 1e-9),
        fit_seconds=seconds,
        peak_memory_mib=peak_memory_mib(),
        ranks=resources.world_size,
        threads=torch.get_num_threads(),
        step_seconds=profiler.step_seconds * resources.accumulate_grad_batches,
        data_seconds=profiler.data_seconds * resources.accumulate_grad_batches,
        communication_seconds=communication.seconds,
        error=error,
        resumed_at=None if checkpoint is None else checkpoint.step,
        problems=tuple(problems),
        origin=module.origin,
    )


def _evaluations(config: TrialConfig, folder: Path, average: ExponentialAverage) -> list[Callback]:
    """The callbacks that measure generated images."""
    return [
        *([FIDCallback(config, average)] if config.sampling.quality_images else []),
        *([CaptionAccuracy(config, average, folder)] if config.sampling.caption_images else []),
        *(METRICS[name].load()(config, average) for name in config.sampling.metrics),
    ]


def _module_and_average(
    config: TrialConfig, resources: ResourcesConfig, start: Start | None
) -> tuple[LinaModule, ExponentialAverage]:
    if resources.strategy == "ddp":
        return config.model.kind.load_module()(config, start), ExponentialAverage(config.ema)
    from lina_lab.training.sharding import ShardedAverage, ShardedModule

    return ShardedModule(config, start), ShardedAverage(config.ema, distributed=config.checkpoint.distributed)


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
    """Silence Lightning's greetings, and its advice that does not apply here."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            # The loader leaves out by itself the steps that were taken (`StepBatches`).
            warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")
            # These values are the same on all ranks.
            warnings.filterwarnings("ignore", ".*sync_dist=True.*")
            warnings.filterwarnings("ignore", ".*`srun` command is available.*")
            # `study.resources.accelerator=cpu` asks for exactly that.
            warnings.filterwarnings("ignore", "GPU available but not used.*")
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
            warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
