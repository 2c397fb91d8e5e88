"""Averages of the weights by power functions: kept while training, written to files, and measured at the end.

Source: Karras et al. 2024 (arXiv 2312.02696), section 3; see `lina_lab.util.power_ema`.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from lina_lab.config import TrialConfig
from lina_lab.config.ema import at_length
from lina_lab.data.modules.base import StepDataModule
from lina_lab.evaluation.posthoc import AVERAGES, Snapshot, Weights, damage, rebuild, write_snapshot
from lina_lab.model import LINA
from lina_lab.training.callbacks.ema import ExponentialAverage
from lina_lab.training.callbacks.fid import FIDCallback
from lina_lab.training.module import LinaModule
from lina_lab.training.work_partition import WorkPartition
from lina_lab.util.compat.torch import lerp_all
from lina_lab.util.files import atomic
from lina_lab.util.power_ema import Profile, decay_of


class PowerAverages(Callback):
    """Keeps an average by a power function for each of `ema.profiles`, beside the exponential one.

    Sharded weights are averaged shard by shard, and are gathered for files. At the end, the validation loss and the
    Fréchet distance are measured at each of `ema.lengths`.

    Args:
        config: the trial; it has profiles.
        folder: the trial's.
        average: its module is borrowed for rebuilt weights. It comes before this callback in the trainer's list.
        evaluations: the trial's other measurements; the Fréchet distance is taken from among them.
    """

    state_key = AVERAGES

    def __init__(
        self, config: TrialConfig, folder: Path, average: ExponentialAverage, evaluations: Sequence[Callback]
    ) -> None:
        self.config, self.folder, self.average = config, folder, average
        self.fid = next((each for each in evaluations if isinstance(each, FIDCallback)), None)
        self.problem: str | None = None
        """Why nothing was measured at other lengths. It is reported, and never ends a trial that trained well."""
        self._due = frozenset(config.ema_snapshots)
        """Steps with a snapshot."""
        self._step = 0
        """Optimizer steps that the averages have seen."""
        self._averages: dict[float, dict[str, Tensor]] = {}
        self._snapshots: list[Snapshot] = []
        self._loaded: Mapping[float, Weights] | None = None
        """From a checkpoint, until the parameters are where they are trained."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from the weights, or from a checkpoint.

        Raises:
            ValueError: the checkpoint is of a trial with other profiles.
        """
        parameters = dict(cast(LinaModule, pl_module).model.named_parameters())
        widths = self.config.ema.profiles
        self._averages = {w: {n: p.detach().clone() for n, p in parameters.items()} for w in widths}
        self._step = trainer.global_step
        if (self._loaded is None and self._step > 0) or (self._loaded is not None and set(self._loaded) != set(widths)):
            raise ValueError(f"the checkpoint holds no averages of ema.profiles={list(widths)}, which start at step 0")
        for width, weights in (self._loaded or {}).items():
            for name, tensor in self._averages[width].items():
                _put(tensor, weights[name])
        self._loaded = None
        if trainer.is_global_zero and trainer.ckpt_path is not None:
            self._bring_snapshots(Path(trainer.ckpt_path).parent)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == self._step:
            return  # A part of a step whose gradients are still being summed.
        self._step = trainer.global_step
        weights = [_local(p.detach()) for p in pl_module.model.parameters()]
        with torch.no_grad():
            for width, average in self._averages.items():
                tensors = [_local(tensor) for tensor in average.values()]
                lerp_all(tensors, weights, 1.0 - decay_of(width, self._step))
        if self._step in self._due:
            whole = self._whole()
            mine = (
                write_snapshot(self.folder, self._step, whole) if trainer.is_global_zero else Snapshot(self._step, "")
            )
            self._snapshots.append(trainer.strategy.broadcast(mine, 0))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, LinaModule)
        if self._step >= self.config.max_steps and self.config.ema.lengths:
            found = damage(self.folder, self._snapshots) if trainer.is_global_zero else None
            self.problem = trainer.strategy.broadcast(found, 0)
            if self.problem is None:
                pl_module.log_over_images(self._measured(trainer, pl_module), pl_module.images_seen)

    def _measured(self, trainer: L.Trainer, module: LinaModule) -> dict[str, float]:
        found: dict[str, float] = {}
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, StepDataModule)
        for length in self.config.ema.lengths:
            with self._borrowed(Profile(length, self._step)) as model:
                metrics = {"val/loss": validation_loss(trainer, module, model)}
                if self.fid is not None:
                    metrics |= self.fid.measure(model, data, WorkPartition.of(module))
            found |= {at_length(name, length): value for name, value in metrics.items()}
        return found

    @contextmanager
    def _borrowed(self, wanted: Profile) -> Iterator[LINA]:
        """The model of the exponential average with rebuilt weights in it; afterwards it has its own again."""
        module = self.average.averaged().eval()
        parameters = dict(module.model.named_parameters())
        own = {name: _local(p.detach()).clone() for name, p in parameters.items()}
        try:
            for name, value in rebuild(self.folder, self._snapshots, self.config.ema.profiles, wanted):
                _put(parameters[name].detach(), value)
            yield module.model
        finally:
            for name, p in parameters.items():
                _local(p.detach()).copy_(own[name])

    def _bring_snapshots(self, source: Path) -> None:
        """Copy the snapshots that this folder lacks from that of the checkpoint, where it lies in another one."""
        for snapshot in self._snapshots:
            here, there = snapshot.file(self.folder), snapshot.file(source)
            if there.is_file() and not here.exists():
                here.parent.mkdir(exist_ok=True)
                with atomic(here) as draft:
                    shutil.copy(there, draft)

    def _whole(self) -> dict[float, dict[str, Tensor]]:
        """The averages, gathered where they are sharded; all ranks call it together."""
        return {
            width: {name: (t.full_tensor() if isinstance(t, DTensor) else t).cpu() for name, t in average.items()}
            for width, average in self._averages.items()
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "averages": self._averages if self.config.checkpoint.distributed else self._whole(),
            "snapshots": [(snapshot.step, snapshot.sha256) for snapshot in self._snapshots],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict["averages"]
        self._snapshots = [Snapshot(step, digest) for step, digest in state_dict["snapshots"]]


def validation_loss(trainer: L.Trainer, module: LinaModule, model: Any) -> float:
    """The frozen validation loss of a model, the same on all ranks.

    Args:
        trainer: the module's.
        module: has the frozen inputs.
        model: the model, with weights that are sharded as the module's are.
    """
    total = torch.zeros(2, dtype=torch.float64, device=module.device)
    loader = trainer.datamodule.val_dataloader()[0]  # type: ignore[attr-defined]
    for batch, (inputs, counted) in zip(loader, module.frozen, strict=True):
        latents, condition = trainer.strategy.batch_to_device(batch, module.device)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            loss = model.loss_from_inputs(latents, inputs, **condition)
        total += torch.stack([loss.double() * counted, torch.tensor(float(counted)).to(total)])
    if trainer.world_size > 1:
        torch.distributed.all_reduce(total)
    return float(total[0] / total[1])


def _local(tensor: Tensor) -> Tensor:
    """What this rank has of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _put(tensor: Tensor, whole: Tensor) -> None:
    """Give a tensor, sharded or not, the values of a whole one, which each rank has, or of one sharded as it is."""
    if isinstance(whole, DTensor):
        whole = whole.to_local()
    elif isinstance(tensor, DTensor):
        whole = distribute_tensor(
            whole.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None
        ).to_local()
    _local(tensor).copy_(whole)
