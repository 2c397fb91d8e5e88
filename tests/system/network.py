"""Machines as network namespaces, each with its own address, name and links, on one file system."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

NEEDED = ("ip", "unshare", "tc")


def skip_where_there_can_be_none() -> None:
    """Skip the test without root or the tools."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"network namespaces need {', '.join(missing)} (Debian: iproute2)")


@dataclass(frozen=True)
class Network:
    """Hosts PREFIX1, PREFIX2, ... at SUBNET.1, SUBNET.2, ..., and PREFIXsw, at SUBNET.254, that connects them."""

    prefix: str
    subnet: str
    count: int
    started: list[tuple[str, subprocess.Popen[str]]] = field(default_factory=list)

    @property
    def switch(self) -> str:
        return f"{self.prefix}sw"

    def host(self, number: int) -> str:
        return f"{self.prefix}{number}"

    def address(self, number: int) -> str:
        return f"{self.subnet}.{number}"

    def start(
        self, host: str, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a command on a host, under the host's own name."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', host]
        process = subprocess.Popen(
            ["ip", "netns", "exec", host, *named, *command],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **(environment or {})},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.started.append((host, process))
        return process

    def link(self, number: int, state: str) -> None:
        """Cut a host's link ("down"), or restore it ("up")."""
        _ip("-n", self.switch, "link", "set", f"p{number}", state)

    def slow(self, number: int, megabits: int) -> None:
        """Limit what a host sends, in megabits a second."""
        limit = ["tbf", "rate", f"{megabits}mbit", "burst", "16kb", "latency", "400ms"]
        _ip("netns", "exec", self.host(number), "tc", "qdisc", "add", "dev", "eth0", "root", *limit)

    def as_new(self) -> None:
        """End all processes, and restore all links."""
        for number in range(1, self.count + 1):
            self.kill(self.host(number))
            self.link(number, "up")
            undo = ["tc", "qdisc", "delete", "dev", "eth0", "root"]
            subprocess.run(["ip", "netns", "exec", self.host(number), *undo], check=False, capture_output=True)
        self.forget()

    def forget(self) -> None:
        """Wait for the processes that were started, which are killed or at their end, and close their pipes."""
        for _, process in self.started:
            process.wait(timeout=30)
            for stream in filter(None, (process.stdout, process.stderr)):
                stream.close()
        self.started.clear()

    def kill(self, host: str) -> None:
        """Kill all processes of a host at once."""
        found = subprocess.run(["ip", "netns", "pids", host], check=True, capture_output=True, text=True).stdout.split()
        for number in map(int, found):
            if psutil.pid_exists(number):
                os.kill(number, signal.SIGKILL)
        for place, process in self.started:
            if place == host and process.poll() is None:
                process.communicate(timeout=30)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def network(prefix: str, subnet: str, count: int) -> Iterator[Network]:
    """Make the machines, and remove them at the end."""
    skip_where_there_can_be_none()
    # Names are once on a machine, whoever else tests there.
    lock = FileLock(Path(tempfile.gettempdir()) / f"lina_lab-network-{prefix}.lock", timeout=1200)
    with lock, _made(Network(prefix, subnet, count)) as net:
        yield net


@contextmanager
def _made(net: Network) -> Iterator[Network]:
    subnet, count = net.subnet, net.count
    names = [net.switch, *(net.host(i) for i in range(1, count + 1))]
    _remove(names)
    hosts = "".join(f"{net.address(i)} {net.host(i)}\n" for i in range(1, count + 1))
    hosts = f"127.0.0.1 localhost\n{net.subnet}.254 {net.switch}\n{hosts}"
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            # `ip netns exec` puts it over /etc/hosts.
            Path("/etc/netns", name).mkdir(parents=True, exist_ok=True)
            Path("/etc/netns", name, "hosts").write_text(hosts)
        _ip("-n", net.switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", net.switch, "addr", "add", f"{subnet}.254/24", "dev", "br0")
        _ip("-n", net.switch, "link", "set", "br0", "up")
        for i in range(1, count + 1):
            host = net.host(i)
            _ip("-n", net.switch, "link", "add", f"p{i}", "type", "veth", "peer", "name", "eth0", "netns", host)
            _ip("-n", net.switch, "link", "set", f"p{i}", "master", "br0")
            _ip("-n", net.switch, "link", "set", f"p{i}", "up")
            _ip("-n", host, "addr", "add", f"{net.address(i)}/24", "dev", "eth0")
            _ip("-n", host, "link", "set", "eth0", "up")
        yield net
    finally:
        for name in names:
            net.kill(name)
        net.forget()
        _remove(names)


def _remove(names: Sequence[str]) -> None:
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)
