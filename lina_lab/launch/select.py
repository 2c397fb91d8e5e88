"""Ways to train one cell: in this process, by a group of processes, by a job of a cluster.

Whoever launches never trains as a rank of a group, and a rank knows nothing of the study: it has a frozen configuration
and the id of one MLflow run.
"""

import json
import os
import shlex
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lina_lab.config import CommandConfig, PathsConfig, ResourcesConfig, TrialConfig
from lina_lab.records.files import JOB_FILE, LOGS
from lina_lab.study.errors import StudyError
from lina_lab.study.grid import Plan
from lina_lab.util.imports import gc_paused

if TYPE_CHECKING:
    from lina_lab.launch.group import Engine
    from lina_lab.launch.nodes import RendezvousConfig
    from lina_lab.records.result import TrialResult
    from lina_lab.training.callbacks.step_sync import Report

Tracking = tuple[str, str]
"""MLflow's tracking URI and the id of the cell's run."""


class Launch(Protocol):
    """Trains one cell in `folder` and returns what came of it; what a cell raises comes out."""

    def __call__(self, config: TrialConfig, folder: Path, *, tracking: Tracking, report: "Report") -> "TrialResult": ...


Launcher = Callable[[], AbstractContextManager[Launch]]
"""Makes a way to train, for as long as cells are trained; nothing is started before it is called."""


@contextmanager
def in_this_process(resources: ResourcesConfig) -> Iterator[Launch]:
    """Train on this machine, here. Imports torch and Lightning, which takes seconds: once, before the first cell."""
    with gc_paused():
        from lina_lab.training.trial import run_trial

    def launch(config: TrialConfig, folder: Path, *, tracking: Tracking, report: "Report") -> "TrialResult":
        refuse_job(folder)
        return run_trial(config, folder, tracking=tracking, report=report, resources=resources)

    yield launch


def refuse_job(folder: Path) -> None:
    """Leave a cell alone that a job of a cluster may be training.

    Raises:
        StudyError: which job.
    """
    path = folder / JOB_FILE
    if path.exists():
        number = json.loads(path.read_text())["job"]
        raise StudyError(
            f"the cell {folder.name} was given to job {number} of a cluster: go on with launcher=slurm, or scancel "
            f"{number} and remove {path}"
        )


@contextmanager
def in_groups(plan: Plan, command: CommandConfig, runs: Path, tell: Callable[[str], None]) -> Iterator[Launch]:
    """Train by groups of processes.

    Args:
        plan: the study.
        command: says which engine starts them, and how.
        runs: folder of all results.
        tell: is told what happens around a cell.
    """
    from lina_lab.launch.group import GroupLaunch

    engine = _engine(plan, command, runs, tell)
    try:
        yield GroupLaunch(engine, plan.study.resources, tell)
    finally:
        engine.close()


def _engine(plan: Plan, command: CommandConfig, runs: Path, tell: Callable[[str], None]) -> "Engine":
    resources = plan.study.resources
    if command.launcher == "slurm":
        from lina_lab.launch.slurm import Slurm

        return Slurm(command.slurm, resources, plan.study.name, tell)
    from lina_lab.launch.torchrun import OneMachine, SeveralMachines

    if resources.nodes == 1:
        return OneMachine()
    from lina_lab.launch.nodes import NodeCoordinator

    return SeveralMachines(NodeCoordinator(meeting(plan, command, runs), tell), resources.nodes)


def meeting(plan: Plan, command: CommandConfig, runs: Path) -> "RendezvousConfig":
    """Where the machines of a study over several nodes meet.

    Raises:
        ValueError: the rendezvous is none.
    """
    from lina_lab.launch.nodes import RendezvousConfig, split_address

    address, port = split_address(command.torchrun.rendezvous)
    return RendezvousConfig(
        address=address,
        port=port,
        folder=runs / plan.study.name,
        command=agreement_digest(plan, runs),
        first_seconds=command.torchrun.wait_seconds,
        return_seconds=command.torchrun.return_seconds,
    )


def launcher_for(plan: Plan, command: CommandConfig, runs: Path, tell: Callable[[str], None]) -> Launcher:
    """The way to train that a command names; the arguments are those of `in_groups`."""
    if command.launcher == "local":
        return partial(in_this_process, plan.study.resources)
    return partial(in_groups, plan, command, runs, tell)


def describe_launch(plan: Plan, paths: PathsConfig, command: CommandConfig) -> str:
    """For people: what would be started for the first cell, to the command line."""
    resources, runs = plan.study.resources, Path(paths.runs).resolve()
    folder = runs / plan.study.name / plan.cells[0].config_hash
    if command.launcher == "slurm":
        from lina_lab.launch.slurm import submission_text

        name, logs = f"{plan.study.name}-{folder.name}", str(folder / LOGS / "slurm")
        return "\nFor each cell a job is submitted; for the first one:\n\n" + submission_text(
            command.slurm, resources, name, logs
        )
    from lina_lab.launch.torchrun import LOOPBACK, agent_command

    started = f"For each cell {resources.world_size} processes ({resources.strategy}); for the first one started by"
    lines = ["", started]
    for node in range(resources.nodes):
        master = LOOPBACK if resources.nodes == 1 else (command.torchrun.rendezvous or "HOST:PORT").rpartition(":")[0]
        lines.append(f"  machine {node}: {shlex.join(agent_command(folder, node, master, 'PORT'))}")
    lines.append(
        f"each of which is torchrun --nnodes={resources.nodes} --nproc-per-node={resources.devices} --max-restarts=0 "
        f"-m lina_lab.launch.rank {folder}"
    )
    return "\n".join(lines)


def leads(plan: Plan, command: CommandConfig) -> bool:
    """Whether this machine has the study's stores; one that does not follows the orders of the one that has.

    Raises:
        ValueError: the rendezvous is none.
    """
    if command.launcher != "torchrun" or plan.study.resources.nodes == 1:
        return True
    from lina_lab.launch.nodes import is_mine, split_address

    return is_mine(split_address(command.torchrun.rendezvous)[0])


def agreement_digest(plan: Plan, runs: Path) -> dict[str, str]:
    """What must be the same on all machines of a study: the cells, the layout, the folder, the code."""
    from lina_lab.config import to_dict
    from lina_lab.util.code_versions import code_versions

    return {
        "study.name": plan.study.name,
        "cells": f"{len(plan.cells)} ({plan.digest()})",
        "paths.runs": str(runs),
        **{f"study.resources.{name}": str(value) for name, value in to_dict(plan.study.resources).items()},
        **code_versions(),
    }


@lru_cache
def gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return tuple(str(i) for i in range(torch.cuda.device_count()))
    return tuple(device for device in named.split(",") if device)


def check_machine(resources: ResourcesConfig, command: CommandConfig) -> None:
    """Refuse more than this machine has; without a GPU its processors are what ranks and workers share.

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
    wanted, host = resources.devices * command.workers, socket.gethostname()
    if wanted == 1 and resources.accelerator == "auto":
        return
    there = 0 if resources.accelerator == "cpu" else len(gpus())
    if resources.accelerator == "gpu" and there == 0:
        raise ValueError(f"study.resources.accelerator=gpu: {host} has no GPU that this process may use")
    if there and wanted > there:
        raise ValueError(
            f"workers={command.workers} x study.resources.devices={resources.devices} is more than the {there} GPUs of "
            f"{host}"
        )
    processors = os.cpu_count() or 1
    if not there and resources.devices > processors:
        raise ValueError(
            f"study.resources.devices={resources.devices} is more than {host} has: no GPU, and {processors} processors"
        )
