"""What this machine has, and whether that is enough."""

import os
import socket
from collections.abc import Iterator
from functools import lru_cache

from lina_lab.config import CommandConfig, ResourcesConfig

GPU_OPTIONS = {"gres", "gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket"}
"""Options of sbatch that ask for GPUs."""
CORE_OPTIONS = {"cpus-per-task", "cpus-per-gpu", "exclusive"}
"""Options of sbatch that give a rank other cores than the one of SLURM's default."""


@lru_cache
def gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return tuple(str(i) for i in range(torch.cuda.device_count()))
    return tuple(device for device in named.split(",") if device)


def workers_of(command: CommandConfig, resources: ResourcesConfig, data_workers: int) -> int:
    """The processes that work on cells at the same time, also where workers=null leaves their number to the machine.

    Args:
        command: the launcher, and the number of workers if it says one.
        resources: the devices and threads of a cell.
        data_workers: `data.workers`, the data loader processes of each cell.
    """
    if command.workers is not None:
        return command.workers
    if command.launcher != "local":
        return 1
    if resources.accelerator != "cpu" and gpus():
        return max(len(gpus()) // resources.devices, 1)
    return max(len(os.sched_getaffinity(0)) // (resources.threads + data_workers), 1)


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
    workers = command.workers or 1
    if resources.nodes > 1 and workers > 1:
        raise ValueError(f"workers={workers}: a study over several nodes has one worker, on the one that leads")
    needed, host = resources.devices * workers, socket.gethostname()
    if needed == 1 and resources.accelerator == "auto":
        return
    available = 0 if resources.accelerator == "cpu" else len(gpus())
    if resources.accelerator == "gpu" and available == 0:
        raise ValueError(f"study.resources.accelerator=gpu: {host} has no GPU that this process may use")
    if available and needed > available:
        raise ValueError(
            f"workers={workers} x study.resources.devices={resources.devices} is more than the {available} "
            f"GPUs of {host}"
        )
    processors = os.cpu_count() or 1
    if not available and resources.devices > processors:
        raise ValueError(
            f"study.resources.devices={resources.devices} is more than {host} has: no GPU, and {processors} processors"
        )


def layout_cautions(resources: ResourcesConfig, command: CommandConfig, data_workers: int) -> Iterator[str]:
    """Sentences on a layout that is allowed and probably not meant: jobs without a GPU, data loaders without a core.

    Args:
        resources: the ranks of a cell.
        command: the launcher and its options.
        data_workers: `data.workers`, the data loader processes of each rank.
    """
    slurm = command.launcher == "slurm"
    asked = {name.replace("_", "-") for name in command.slurm.sbatch}
    if slurm and resources.accelerator == "auto" and not asked & GPU_OPTIONS:
        yield (
            "The job asks for no GPU, since study.resources.accelerator=auto takes what it finds: "
            f"study.resources.accelerator=gpu asks for {resources.devices} on each node"
        )
    if slurm and command.slurm.cpus_per_task is None:
        return  # what is left open follows data.workers (`slurm.with_cores`)
    ranks = resources.devices * workers_of(command, resources, data_workers)
    cores = (command.slurm.cpus_per_task or 1) if slurm else max(len(os.sched_getaffinity(0)) // ranks, 1)
    if data_workers <= cores:
        return
    if slurm:
        given = f"by slurm.cpus_per_task={cores}"
        advice = f"slurm.cpus_per_task={data_workers + 1} also leaves one to the rank itself"
    else:
        given = f"of this machine, which has {len(os.sched_getaffinity(0))} for {ranks} rank{'s' if ranks > 1 else ''}"
        advice = f"data.workers={cores} gives each its own"
    yield (
        f"data.workers={data_workers} is more than the {cores} core{'s' if cores > 1 else ''} that a rank has {given}: "
        f"{advice}"
    )
