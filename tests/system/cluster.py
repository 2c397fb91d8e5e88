"""A SLURM cluster from Debian's packages: a controller, and a node on each host of a network."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.network import Network

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol")
CONFIG = """\
ClusterName=lina
SlurmctldHost={controller}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
KillWait=5
MinJobAge=600
SchedulerParameters=sched_interval=2,batch_sched_delay=0
SwitchType=switch/none
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """A running cluster; its commands run on the controller's host."""

    def __init__(self, net: Network, folder: Path) -> None:
        self.net, self.folder = net, folder
        self.nodes = [net.host(i) for i in range(1, net.count + 1)]
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def run(self, *command: str) -> str:
        """The output of a command."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.net.switch, *command],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.stdout + done.stderr

    def up(self) -> None:
        (self.folder / "state").mkdir()
        lines = []
        for number, node in enumerate(self.nodes, start=1):
            (self.folder / node).mkdir()
            lines.append(f"NodeName={node} NodeAddr={self.net.address(number)} CPUs=2 RealMemory=8000")
        names = {"controller": self.net.switch, "address": f"{self.net.subnet}.254"}
        text = CONFIG.format(folder=self.folder, nodes="\n".join(lines), **names)
        (self.folder / "slurm.conf").write_text(text)
        # `ip netns exec` mounts a fresh /sys without control groups.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        self._munge()
        self._daemon(self.net.switch, "slurmctld")
        for node in self.nodes:
            self._daemon(node, "slurmd", "-N", node)
        deadline = time.monotonic() + 60
        while self.run("sinfo", "-h", "-N", "-o", "%T").count("idle") < len(self.nodes):
            assert time.monotonic() < deadline, self.run("sinfo")
            time.sleep(0.2)

    def start_node(self, number: int) -> None:
        """Restart a node's daemon."""
        self._daemon(self.net.host(number), "slurmd", "-N", self.net.host(number))

    def _daemon(self, host: str, *command: str) -> None:
        process = self.net.start(host, list(command), self.folder, self.environment)
        process.communicate(timeout=30)
        assert process.returncode == 0

    def _munge(self) -> None:
        key = Path("/etc/munge/munge.key")
        if not key.exists() or not key.stat().st_size:
            subprocess.run(["mungekey", "-c", "-f"], check=True)
        shutil.chown(key, "munge", "munge")
        for folder in ("/run/munge", "/var/log/munge", "/var/lib/munge"):
            subprocess.run(["install", "-d", "-m", "755", "-o", "munge", "-g", "munge", folder], check=True)
        if subprocess.run(["pgrep", "-x", "munged"], capture_output=True, check=False).returncode:
            subprocess.run(["runuser", "-u", "munge", "--", "/usr/sbin/munged"], check=True)

    def down(self) -> None:
        self.run("scancel", "-u", "root")
        deadline = time.monotonic() + 20
        while self.run("squeue", "-h").strip() and time.monotonic() < deadline:
            time.sleep(0.5)


@contextmanager
def cluster(net: Network, folder: Path) -> Iterator[Cluster]:
    """Start a cluster on the hosts of a network."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"a cluster needs {', '.join(missing)} (Debian: slurmctld slurmd slurm-client munge)")
    made = Cluster(net, folder)
    made.up()
    yield made
    made.down()
