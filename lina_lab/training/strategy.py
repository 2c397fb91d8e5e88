"""Lightning's strategy for a layout of ranks."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor
from torch.distributed import tensor as tensors
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict, set_optimizer_state_dict
from torch.optim import Optimizer

from lina_lab.config import ResourcesConfig
from lina_lab.model.shards import ShardedCheckpoint, open_checkpoint


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for sharded weights, with checkpoints that are a file, or a file and shards.

    Lightning's own distributed checkpoints hold the shards of weights and optimizer alone, and its callbacks' state
    whole; they are a folder, which exists before it is whole.

    Args:
        resources: the layout of the ranks.
        distributed: each rank writes its shards of a checkpoint. Either kind is read.
    """

    def __init__(self, resources: ResourcesConfig, *, distributed: bool) -> None:
        super().__init__(
            data_parallel_size=resources.world_size,
            tensor_parallel_size=1,
            save_distributed_checkpoint=distributed,
            timeout=timedelta(seconds=resources.timeout_seconds),
        )
        self.distributed = distributed

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights: shards stay on their device until they are written."""
        assert self.model is not None
        return get_model_state_dict(self.model) if self.distributed else super().lightning_module_state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state; of shards nothing, for the module puts it into the checkpoint itself."""
        return {} if self.distributed else super().optimizer_state(optimizer)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        if self.distributed:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath)
        else:
            super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, and give weights and optimizer their state; each rank reads its shards alone."""
        saved = open_checkpoint(Path(checkpoint_path), self._place)
        if not isinstance(saved, ShardedCheckpoint):
            return super().load_checkpoint(checkpoint_path, weights_only)
        assert self.model is not None
        checkpoint = dict(saved)
        set_model_state_dict(self.model, checkpoint.pop("state_dict"))
        for optimizer, state in zip(self.optimizers, checkpoint.pop("optimizer_states"), strict=True):
            set_optimizer_state_dict(self.model, optimizer, state)
        return checkpoint

    def _place(self, tensor: Tensor) -> Tensor:
        """Host memory for this rank's shard, of this number of ranks."""
        mesh = self.device_mesh["data_parallel"]
        shard = tensors.empty(tensor.shape, dtype=tensor.dtype, device_mesh=mesh, placements=[tensors.Shard(0)])
        return shard.to("cpu")


def strategy_for(resources: ResourcesConfig, *, distributed: bool = False) -> Strategy | str:
    """The strategy of a layout; "auto" for one process.

    Args:
        resources: the layout.
        distributed: see `ShardedStrategy`.
    """
    if resources.strategy == "fsdp":
        return ShardedStrategy(resources, distributed=distributed)
    timeout = timedelta(seconds=resources.timeout_seconds)
    return "auto" if resources.world_size == 1 else DDPStrategy(timeout=timeout)
