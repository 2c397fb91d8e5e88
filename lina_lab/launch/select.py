"""The way to train that a command names: in this process, by a group of processes, by a job of a cluster."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from lina_lab.config import CommandConfig, ResourcesConfig, to_dict
from lina_lab.launch.contract import Engine, Launch, LaunchContext, Launcher
from lina_lab.launch.group import GroupLaunch
from lina_lab.launch.local import in_this_process
from lina_lab.launch.nodes import NodeCoordinator, RendezvousConfig, is_mine, split_address
from lina_lab.launch.slurm import Slurm, submission_text, with_cores
from lina_lab.launch.torchrun import LOOPBACK, OneMachine, SeveralMachines, agent_command
from lina_lab.util.code_versions import code_versions


def launcher_for(context: LaunchContext, command: CommandConfig, tell: Callable[[str], None]) -> Launcher:
    """The way to train that a command names.

    Args:
        context: the study.
        command: which launcher, and its options.
        tell: called with a line about what happens around a cell.
    """
    if command.launcher == "local":
        return partial(in_this_process, context.resources)
    return partial(in_groups, context, command, tell)


@contextmanager
def in_groups(context: LaunchContext, command: CommandConfig, tell: Callable[[str], None]) -> Iterator[Launch]:
    """Train by groups of processes; the arguments are those of `launcher_for`."""
    engine = _engine(context, command, tell)
    try:
        yield GroupLaunch(engine, context.resources, tell)
    finally:
        engine.close()


def _engine(context: LaunchContext, command: CommandConfig, tell: Callable[[str], None]) -> Engine:
    if command.launcher == "slurm":
        return Slurm(with_cores(command.slurm, context.data_workers), context.resources, context.study, tell)
    if context.resources.nodes == 1:
        return OneMachine()
    return SeveralMachines(NodeCoordinator(rendezvous(context, command), tell), context.resources.nodes)


def rendezvous(context: LaunchContext, command: CommandConfig) -> RendezvousConfig:
    """Where the machines of a study over several nodes meet.

    Raises:
        ValueError: the command names no address that all of them can reach.
    """
    address, port = split_address(command.torchrun.rendezvous)
    return RendezvousConfig(
        address=address,
        port=port,
        folder=context.folder,
        command=agreement_digest(context),
        first_seconds=command.torchrun.wait_seconds,
        return_seconds=command.torchrun.return_seconds,
    )


def is_leader(resources: ResourcesConfig, command: CommandConfig) -> bool:
    """Whether this machine has the study's stores; another one follows the commands of the one that has.

    Raises:
        ValueError: the command names no address that all machines can reach.
    """
    if command.launcher != "torchrun" or resources.nodes == 1:
        return True
    return is_mine(split_address(command.torchrun.rendezvous)[0])


def agreement_digest(context: LaunchContext) -> dict[str, str]:
    """What must be the same on all machines of a study: the cells, the layout, the folder, the code."""
    return {
        "study.name": context.study,
        "cells": context.cells,
        "paths.runs": str(context.folder.parent),
        **{f"study.resources.{name}": str(value) for name, value in to_dict(context.resources).items()},
        **code_versions(),
    }


def describe_launch(context: LaunchContext, command: CommandConfig, cell: str) -> str:
    """What would be started for a cell, down to the command line, for people.

    Args:
        context: the study.
        command: which launcher, and its options.
        cell: the cell's config hash.
    """
    resources, folder = context.resources, context.folder / cell
    if command.launcher == "slurm":
        text = submission_text(with_cores(command.slurm, context.data_workers), resources, context.study, folder)
        return "\nFor each cell a job is submitted; for the first one:\n\n" + text
    lines = ["", f"For each cell {resources.world_size} processes ({resources.strategy}); for the first one started by"]
    for node in range(resources.nodes):
        master = LOOPBACK if resources.nodes == 1 else (command.torchrun.rendezvous or "HOST:PORT").rpartition(":")[0]
        lines.append(f"  machine {node}: {shlex.join(agent_command(folder, node, master, 'PORT', 'PARENT'))}")
    lines.append(
        f"each of which is torchrun --nnodes={resources.nodes} --nproc-per-node={resources.devices} --max-restarts=0 "
        f"-m lina_lab.launch.rank {folder}"
    )
    return "\n".join(lines)
