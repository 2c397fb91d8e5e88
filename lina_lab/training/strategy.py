"""Lightning's strategy for a layout of ranks."""

from datetime import timedelta

from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from lina_lab.config import ResourcesConfig


def strategy_for(resources: ResourcesConfig) -> Strategy | str:
    """The strategy of a layout; "auto" for one process."""
    timeout = timedelta(seconds=resources.timeout_seconds)
    if resources.strategy == "fsdp":
        return ModelParallelStrategy(
            data_parallel_size=resources.world_size,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            timeout=timeout,
        )
    return "auto" if resources.world_size == 1 else DDPStrategy(timeout=timeout)
