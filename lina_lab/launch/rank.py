"""One process of a group that trains a trial: `python -m lina_lab.launch.rank FOLDER`, started by an engine.

The folder holds the trial's configuration and the group's order (`group.py`). What the process prints goes to its own
log there, how it ended to its note, and the trial's result, from the first rank, to the outcome.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from filelock import FileLock, Timeout

from lina_lab.config import TrialConfig, from_dict
from lina_lab.launch.contract import LaunchSpec, RankStatus, write_outcome, write_progress
from lina_lab.records.files import CONFIG_FILE, LOGS
from lina_lab.util.imports import gc_paused

if TYPE_CHECKING:
    from lina_lab.records.result import TrialResult
    from lina_lab.training.callbacks.step_sync import StopSignals

RANK_VARIABLE = {"torchrun": "RANK", "slurm": "SLURM_PROCID"}
WATCH_SECONDS = 0.5
PROGRESS_SECONDS = 1.0
LOCK_SECONDS = 60.0
"""How long the first rank waits for that of a group whose end it has outrun."""
ORPHANED = 75


def main(folder: Path) -> "tuple[TrialResult, StopSignals]":
    """Train as one rank; what came of it, and what this process was asked for meanwhile."""
    order = LaunchSpec.read(folder)
    rank = int(os.environ[RANK_VARIABLE[order.engine]])
    _log_to(folder / LOGS / f"rank-{rank}.log", order)
    RankStatus.make(order, rank).write(folder)
    if order.engine == "torchrun":
        end_with_parent()
    try:
        ended = _train(folder, order, rank)
    except BaseException as error:
        RankStatus.make(order, rank, error).write(folder)
        raise
    RankStatus.make(order, rank, ended=True).write(folder)
    return ended


def _train(folder: Path, order: LaunchSpec, rank: int) -> "tuple[TrialResult, StopSignals]":
    with gc_paused():
        from lina_lab.training.callbacks.step_sync import StopSignals
        from lina_lab.training.trial import run_trial

    config = from_dict(TrialConfig, yaml.safe_load((folder / CONFIG_FILE).read_text()))
    # Not SIGUSR1, which NCCL may take for itself.
    requests = StopSignals(signals=(signal.SIGTERM, signal.SIGUSR2))
    lock = _only_group(folder) if rank == 0 else None
    result = run_trial(
        config,
        folder,
        tracking=order.tracking,
        report=_Progress(folder),
        resources=order.resources,
        requests=requests,
        environment=_environment(order),
    )
    if rank == 0:
        write_outcome(folder, order, result)
    if lock is not None:
        lock.release()
    return result, requests


class _Progress:
    """Writes down how far the trial is, now and then."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._written = folder, 0.0

    def __call__(self, images: int, loss: float) -> None:
        if time.monotonic() - self._written > PROGRESS_SECONDS:
            self._written = time.monotonic()
            write_progress(self.folder, images, loss)


def _environment(order: LaunchSpec) -> object:
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    # Requeueing is ours: Lightning's handler saves from within a signal, where ranks may be at different points.
    return SLURMEnvironment(auto_requeue=False) if order.engine == "slurm" else TorchElasticEnvironment()


def _only_group(folder: Path) -> FileLock:
    """The right to train in a folder: a group whose parents died may take a moment to notice.

    Raises:
        RuntimeError: another group trains there and goes on.
    """
    lock = FileLock(folder / "group.lock")
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise RuntimeError(f"another group trains in {folder}: stop it") from None
    return lock


def _log_to(path: Path, order: LaunchSpec) -> None:
    """Have all that this process prints, also from C++, end up in a file."""
    with path.open("ab", buffering=0) as log:
        log.write(f"--- {time.strftime('%F %T')} attempt {order.attempt} on {socket.gethostname()}\n".encode())
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())


def end_with_parent() -> None:
    """End this process when its parent has ended: nobody else would, and its work would be done a second time."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(ORPHANED)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def network_variables(address: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that have gloo and NCCL use the network interface that owns an address, where they are not set.

    Without them gloo takes the address of the machine's own name, which on many machines is that of the loopback.
    """
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(known.address == address for known in addresses):
            variables = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
            return {variable: name for variable in variables if variable not in environment}
    return {}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
