"""Weights sharded over all ranks: PyTorch's `fully_shard` (FSDP2) under Lightning's ModelParallelStrategy."""

from functools import partial
from typing import Any

import lightning as L
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from lina_lab.config import EmaConfig
from lina_lab.training.callbacks.ema import ExponentialAverage
from lina_lab.training.module import LinaModule
from lina_lab.util.compat.lightning import averaged_model, set_averaged_model, swap_models

ENTRIES = ("loss_from_inputs", "predict", "generate", "logits")
"""Methods, beside `forward`, that need a model's weights gathered, where the model has them."""
WHOLE, SHARDS = StateDictOptions(full_state_dict=True, cpu_offload=True), StateDictOptions()
"""What goes into a checkpoint: whole tensors, on the first rank's host memory alone, or the shards as they are."""


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a model's weights over the ranks: each block on its own, so that only one at a time is whole."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block, mesh=mesh)
    # Not left whole after a forward pass: what is saved, averaged and swapped are the shards.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for name in filter(partial(hasattr, model), ENTRIES):
        register_fsdp_forward_method(model, name)


def data_mesh(module: L.LightningModule) -> DeviceMesh:
    """The ranks that share the weights."""
    assert module.device_mesh is not None
    return module.device_mesh["data_parallel"]


class ShardedModule(LinaModule):
    """A LINA whose weights are sharded over all ranks."""

    def configure_model(self) -> None:
        shard(self.model, data_mesh(self))


class ShardedAverage(ExponentialAverage):
    """The moving average of sharded weights: sharded alike, so that each rank averages its own shards.

    Args:
        config: see `ExponentialAverage`.
        distributed: a checkpoint takes the shards and not the gathered average.
    """

    def __init__(self, config: EmaConfig, *, distributed: bool) -> None:
        super().__init__(config)
        self.decay, self.saved = config.decay, SHARDS if distributed else WHOLE

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, ShardedModule)
        twin = LinaModule(pl_module.config)
        # Not sharded yet, and maybe those of another model.
        twin.load_state_dict(pl_module.state_dict())
        twin = twin.to(trainer.strategy.root_device)
        average = AveragedModel(twin, avg_fn=get_ema_avg_fn(self.decay), use_buffers=False)  # type: ignore[no-untyped-call]
        set_averaged_model(self, average)
        shard(self.averaged().model, data_mesh(pl_module))
        pl_module.averages = True
        self._begin(pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the same entries as without sharding."""
        checkpoint["current_model_state"] = checkpoint["state_dict"]
        checkpoint["state_dict"] = get_model_state_dict(self.averaged(), options=self.saved)
        checkpoint["averaging_state"] = {"n_averaged": averaged_model(self).n_averaged}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the average from the model, where the strategy put it, and the model's weights from their own entry."""
        swap_models(self, pl_module)
        averaged_model(self).n_averaged.copy_(checkpoint["averaging_state"]["n_averaged"])
        weights = checkpoint["current_model_state"]
        sharded = any(isinstance(tensor, DTensor) for tensor in weights.values())
        set_model_state_dict(pl_module, weights, options=StateDictOptions(full_state_dict=not sharded))
