"""What it takes for several processes to train one model: a strategy, a check that all are alike, and a clock."""

import hashlib
import socket
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from lina_lab.config import ResourcesConfig, TrialConfig
from lina_lab.util.code_versions import code_versions
from lina_lab.util.compat.lightning import FETCH, TRAIN
from lina_lab.util.compat.torch import ddp_logging_data


def strategy_for(resources: ResourcesConfig) -> Strategy | str:
    """Lightning's strategy for a layout; "auto" for one process."""
    timeout = timedelta(seconds=resources.timeout_seconds)
    if resources.strategy == "fsdp":
        return ModelParallelStrategy(
            data_parallel_size=resources.world_size,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            timeout=timeout,
        )
    return "auto" if resources.world_size == 1 else DDPStrategy(timeout=timeout)


class ConsistencyCheck(Callback):
    """Compares the ranks before they train: they must have the same code, configuration and checkpoint.

    Args:
        config: the trial.
        checkpoint: what this rank goes on from.

    Raises:
        ValueError: on all ranks, naming the host that differs and in what.
    """

    def __init__(self, config: TrialConfig, checkpoint: Path | None) -> None:
        self.config, self.checkpoint = config, checkpoint

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size == 1:
            return
        mine = {
            **code_versions(),
            "configuration": self.config.config_hash(),
            "checkpoint": "none" if self.checkpoint is None else self.checkpoint.name,
            "text encoder": str(trainer.datamodule.encoder_sha256),  # type: ignore[attr-defined]
        }
        views: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(views, (socket.gethostname(), mine))
        sentence = disagreement(views)
        if sentence is not None:
            raise ValueError(sentence)


class WeightSyncCheck(Callback):
    """Compares the weights of ranks that each have a copy of them, behind each epoch, before they are saved.

    Raises:
        RuntimeError: on all ranks, when one has come to other weights, bit for bit, than the first: its hardware, or
            its library of communication, is not to be trusted.
    """

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not isinstance(trainer.strategy, DDPStrategy):
            return
        views: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(views, (socket.gethostname(), digest(pl_module)))
        for rank, (host, found) in enumerate(views):
            if found != views[0][1]:
                raise RuntimeError(
                    f"rank {rank} on {host} has other weights than rank 0 behind {trainer.global_step} steps"
                )


def digest(module: torch.nn.Module) -> str:
    """SHA-256 of the weights' bits."""
    found = hashlib.sha256()
    for parameter in module.parameters():
        found.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def disagreement(views: Sequence[tuple[str, dict[str, str]]]) -> str | None:
    """In what a host differs from the first one, in a sentence; None if none does."""
    first_host, first = views[0]
    for host, view in views[1:]:
        differing = [name for name in sorted(first.keys() | view.keys()) if first.get(name) != view.get(name)]
        if differing:
            parts = [f"{name} {view.get(name, 'absent')} against {first.get(name, 'absent')}" for name in differing]
            return f"{host} differs from {first_host}: {', '.join(parts)}"
    return None


class StepProfiler(Profiler):
    """Mean seconds of a micro-batch, and of waiting for its data; the first ones, which set things up, left out."""

    WARM_UP = 3

    def __init__(self) -> None:
        super().__init__()
        self._began: dict[str, float] = {}
        self._spent: dict[str, list[float]] = {FETCH: [], TRAIN: []}

    def start(self, action_name: str) -> None:
        if action_name in self._spent:
            self._began[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name in self._spent:
            self._spent[action_name].append(time.perf_counter() - self._began[action_name])

    @property
    def data_seconds(self) -> float:
        """Waiting for data."""
        return _mean(self._spent[FETCH][self.WARM_UP :])

    @property
    def step_seconds(self) -> float:
        """All of it."""
        return self.data_seconds + _mean(self._spent[TRAIN][self.WARM_UP :])

    def summary(self) -> str:
        """Nothing: the numbers are in the trial's result."""
        return ""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


class CommunicationClock(Callback):
    """Keeps what PyTorch's DDP measures of itself, on the first ten steps and on each hundredth one."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        """Mean time of a step that the gradients' reduction takes beyond the backward pass; None: not measured."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        model = trainer.strategy.model
        if isinstance(model, torch.nn.parallel.DistributedDataParallel):
            measured = ddp_logging_data(model)
            spent, hidden = (
                float(measured.get(f"avg_backward_{name}_time", 0)) / 1e9 for name in ("comm", "compute_comm_overlap")
            )
            self.seconds = max(0.0, spent - hidden)
