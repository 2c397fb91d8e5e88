"""What trains a cell."""

from typing import Literal

from pydantic.dataclasses import dataclass

from lina_lab.config.checks import CHECKS, NonNegativeInt, PositiveFloat, PositiveInt


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class ResourcesConfig:
    """The hardware and the process group that train a cell."""

    nodes: PositiveInt = 1
    """Machines."""
    devices: PositiveInt = 1
    """Devices of each machine, with one process each: GPUs, or parts of the CPU where there are none."""
    accelerator: Literal["auto", "gpu", "cpu"] = "auto"
    """gpu: refuse a machine without GPUs; auto: use GPUs where there are any, otherwise the CPU."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How several devices train one model: ddp copies the model to each, fsdp shards it over them."""
    accumulate_grad_batches: PositiveInt = 1
    """Gradient accumulation: micro-batches of each device in one optimizer step. The global batch stays
    data.batch_size."""
    threads: PositiveInt = 1
    """Threads of each process on the CPU. Their number decides the order of sums, so it belongs to the study: cells
    that are trained with another one are refused."""
    timeout_seconds: PositiveFloat = 300.0
    """Seconds that a device waits for another one before the process group counts as broken."""
    max_minutes: PositiveFloat | None = None
    """Longest training time of a cell, over all its attempts; a cell that takes longer saves a checkpoint and is
    cancelled. null: no limit."""
    max_restarts: NonNegativeInt = 3
    """How often a cell whose process group died is restarted, each time from its last checkpoint."""
    flops_per_second: PositiveFloat | None = None
    """Training FLOP/s of a device, for `lina plan`; null: as measured on the study's finished cells."""

    @property
    def world_size(self) -> int:
        """Processes that train one model together."""
        return self.nodes * self.devices

    def check_batch(self, batch_size: int) -> None:
        """Refuse a batch that does not divide evenly over devices and accumulation steps.

        Raises:
            ValueError: the numbers that do not fit.
        """
        shares = self.world_size * self.accumulate_grad_batches
        if batch_size % shares:
            raise ValueError(
                f"data.batch_size={batch_size} cannot be divided evenly: study.resources has nodes={self.nodes} "
                f"x devices={self.devices} x accumulate_grad_batches={self.accumulate_grad_batches} = {shares} "
                "micro-batches"
            )
