"""One process of a group that trains a trial: `python -m lina_lab.launch.rank FOLDER PARENT`, started by an engine.

The folder holds the trial's configuration and the group's spec (`contract.LaunchSpec`). The process prints to its own
log there and notes how it ended; the first rank also writes the trial's result.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from filelock import FileLock, Timeout

from lina_lab.config import TrialConfig, from_dict
from lina_lab.launch.contract import EngineName, LaunchSpec, RankStatus, read_message, write_outcome, write_progress
from lina_lab.records.files import CONFIG_FILE, GROUP_FILE, LOGS
from lina_lab.records.result import Progress, TrialResult
from lina_lab.util.code_versions import code_versions, differences
from lina_lab.util.imports import gc_paused

if TYPE_CHECKING:
    from lina_lab.training.stopping import StopSignals

RANK_VARIABLE = {EngineName.TORCHRUN: "RANK", EngineName.SLURM: "SLURM_PROCID"}
WATCH_SECONDS = 0.5
YIELD_SECONDS = 2.0
PROGRESS_SECONDS = 1.0
LOCK_SECONDS = 60.0
"""How long the first rank waits for the first rank of an earlier group that is still ending."""
ORPHANED = 75
"""Exit code of a process whose parent has ended, or whose cell a later group trains."""


def main(folder: Path, parent: int | None = None) -> "tuple[TrialResult, StopSignals]":
    """Train as one rank.

    Args:
        folder: the cell's.
        parent: number of the process that started this one, which ends with it; None: it may outlive it.

    Returns:
        The result, and the signals that this process got meanwhile.
    """
    if parent is not None:
        end_with_parent(parent)
    spec = LaunchSpec.read(folder)
    rank = int(os.environ[RANK_VARIABLE[spec.engine]])
    _log_to(folder / LOGS / f"rank-{rank}.log", spec)
    RankStatus.make(spec, rank).write(folder)
    try:
        ended = _train(folder, spec, rank)
    except BaseException as error:
        RankStatus.make(spec, rank, error).write(folder)
        raise
    RankStatus.make(spec, rank, ended=True).write(folder)
    return ended


def _train(folder: Path, spec: LaunchSpec, rank: int) -> "tuple[TrialResult, StopSignals]":
    if spec.versions and spec.versions != code_versions():
        raise RuntimeError(
            f"this process has other code or packages than the command that started it: "
            f"{differences(spec.versions, code_versions())}; start the command again"
        )
    with gc_paused():
        from lina_lab.training.stopping import StopSignals
        from lina_lab.training.trial import run_trial

    config = from_dict(TrialConfig, yaml.safe_load((folder / CONFIG_FILE).read_text()))
    # Not SIGUSR1, which NCCL may take for itself.
    requests = StopSignals(signals=(signal.SIGTERM, signal.SIGUSR2))
    written, validated = 0.0, None

    def report(progress: Progress) -> None:
        nonlocal written, validated
        # A validation at once: whether the trial goes on may depend on it.
        if time.monotonic() - written > PROGRESS_SECONDS or progress.validated_images != validated:
            written, validated = time.monotonic(), progress.validated_images
            write_progress(folder, progress)

    def log(progress: Progress) -> None:
        print(f"{time.strftime('%F %T')} {progress}", flush=True)

    with _only_group(folder, spec) if rank == 0 else nullcontext():
        result = run_trial(
            config,
            folder,
            tracking=spec.tracking,
            report=report,
            log=log,
            resources=spec.resources,
            requests=requests,
            environment=_environment(spec),
        )
        if rank == 0:
            write_outcome(folder, spec, result)
    return result, requests


def _environment(spec: LaunchSpec) -> object:
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    # Requeueing is ours: Lightning's handler saves from within a signal, where ranks may be at different points.
    return SLURMEnvironment(auto_requeue=False) if spec.engine is EngineName.SLURM else TorchElasticEnvironment()


def _only_group(folder: Path, spec: LaunchSpec) -> AbstractContextManager[object]:
    """The right to train in a folder, which goes to the latest attempt: this process ends when a later one has begun.

    An earlier group may still train there, because nothing told it that its launcher is gone.

    Raises:
        RuntimeError: another group trains there, and does not end.
    """

    def superseded() -> bool:
        latest = read_message(folder / GROUP_FILE)
        return latest is not None and latest["attempt"] != spec.attempt

    _end_when(superseded, YIELD_SECONDS)
    try:
        return FileLock(folder / "group.lock").acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise RuntimeError(f"another group trains in {folder}: stop it") from None


def _log_to(path: Path, spec: LaunchSpec) -> None:
    """Redirect all that this process prints, also from C++, into a file."""
    with path.open("ab", buffering=0) as log:
        log.write(f"--- {time.strftime('%F %T')} attempt {spec.attempt} on {socket.gethostname()}\n".encode())
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())


def end_with_parent(parent: int) -> None:
    """End this process when its parent has ended: no one else would, and its work would be done a second time.

    Args:
        parent: its number as the parent gave it. `os.getppid()` would be that of another process if the parent ended
            before this one asks.
    """
    _end_when(lambda: os.getppid() != parent, WATCH_SECONDS)


def _end_when(condition: Callable[[], bool], seconds: float) -> None:
    """End this process once a condition holds, which is looked at now and then."""

    def watch() -> None:
        while not condition():
            time.sleep(seconds)
        os._exit(ORPHANED)

    threading.Thread(target=watch, name="end", daemon=True).start()


def network_variables(address: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that make gloo and NCCL use the network interface that owns an address, where they are not set.

    Without them gloo takes the address of the machine's own name, which on many machines is the loopback's.
    """
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(known.address == address for known in addresses):
            variables = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
            return {variable: name for variable in variables if variable not in environment}
    return {}


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
