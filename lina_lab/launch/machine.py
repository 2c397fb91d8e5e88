"""What this machine has, and whether that is enough."""

import os
import socket
from functools import lru_cache

from lina_lab.config import CommandConfig, ResourcesConfig


@lru_cache
def gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return tuple(str(i) for i in range(torch.cuda.device_count()))
    return tuple(device for device in named.split(",") if device)


def check_machine(resources: ResourcesConfig, command: CommandConfig) -> None:
    """Refuse a layout that needs more than this machine has; without a GPU, ranks and workers share its processors.

    Raises:
        ValueError: what is missing, on which machine.
    """
    if command.launcher == "slurm":
        return
    if command.launcher == "local" and resources.world_size > 1:
        raise ValueError(
            f"study.resources has nodes={resources.nodes} x devices={resources.devices}: launcher=local trains in one "
            "process; give launcher=torchrun or launcher=slurm"
        )
    if resources.nodes > 1 and command.workers > 1:
        raise ValueError(f"workers={command.workers}: a study over several nodes has one worker, on the one that leads")
    needed, host = resources.devices * command.workers, socket.gethostname()
    if needed == 1 and resources.accelerator == "auto":
        return
    available = 0 if resources.accelerator == "cpu" else len(gpus())
    if resources.accelerator == "gpu" and available == 0:
        raise ValueError(f"study.resources.accelerator=gpu: {host} has no GPU that this process may use")
    if available and needed > available:
        raise ValueError(
            f"workers={command.workers} x study.resources.devices={resources.devices} is more than the {available} "
            f"GPUs of {host}"
        )
    processors = os.cpu_count() or 1
    if not available and resources.devices > processors:
        raise ValueError(
            f"study.resources.devices={resources.devices} is more than {host} has: no GPU, and {processors} processors"
        )
