"""TorchElastic as the engine: on this machine, or on several that run the same command (`nodes.py`)."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from lina_lab.launch.contract import Engine, EngineName, GroupExit, LaunchSpec, Running, read_message, refuse_job
from lina_lab.launch.nodes import NodeCoordinator
from lina_lab.records.files import LOGS

STOP_SECONDS = 60.0
"""How long a group may take to save its state."""
LOOPBACK = "127.0.0.1"


def agent_command(folder: Path, node: int, master: str, port: int | str, parent: int | str) -> list[str]:
    """The command line of a machine's part of a group; it ends with the process `parent`."""
    return [sys.executable, "-m", "lina_lab.launch.agent", str(folder), str(node), master, str(port), str(parent)]


class Agent:
    """A machine's part of a group: the process that watches the ranks there."""

    def __init__(self, folder: Path, node: int, master: str, port: int, attempt: str) -> None:
        self.folder, self.node, self.attempt = folder, node, attempt
        with (folder / LOGS / f"node-{node}.log").open("ab") as log:
            # A session of its own: Ctrl-C in the terminal is for the launcher, which then ends the group in order.
            self.process = subprocess.Popen(
                agent_command(folder, node, master, port, os.getpid()), stdout=log, stderr=log, start_new_session=True
            )

    def look(self) -> GroupExit | None:
        """How it ended; None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        note = read_message(self.folder / LOGS / f"node-{self.node}.json")
        if note is not None and note.pop("attempt") == self.attempt:
            return GroupExit.from_dict(note)
        log = self.folder / LOGS / f"node-{self.node}.log"
        return GroupExit(sentence=f"{socket.gethostname()}: the agent ended with exit code {code}: see {log}")

    def stop(self, patience: float = STOP_SECONDS) -> None:
        """Ask the ranks to save their state and end, and kill the agent after `patience` seconds."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class OneMachine(Engine):
    """Groups on this machine."""

    name = EngineName.TORCHRUN

    def start(self, folder: Path, spec: LaunchSpec) -> Running:
        refuse_job(folder)
        return Agent(folder, 0, LOOPBACK, free_port(LOOPBACK), spec.attempt)


class SeveralMachines(Engine):
    """Groups over this machine and others that follow its commands."""

    name = EngineName.TORCHRUN

    def __init__(self, coordinator: NodeCoordinator, nodes: int) -> None:
        self.coordinator, self.nodes = coordinator, nodes

    def start(self, folder: Path, spec: LaunchSpec) -> Running:
        refuse_job(folder)
        hosts = self.coordinator.gather(self.nodes - 1)
        port = free_port(self.coordinator.address)
        self.coordinator.start(folder, spec.attempt, hosts, port)
        return _Together(self.coordinator, hosts, Agent(folder, 0, self.coordinator.address, port, spec.attempt))

    def close(self) -> None:
        self.coordinator.close()


class _Together:
    """This machine's agent, and those of the hosts that were told to start theirs."""

    LAST_NOTES_SECONDS = 5.0
    """How long the other machines may take to report what they saw, once one has seen the end."""

    def __init__(self, coordinator: NodeCoordinator, hosts: list[str], agent: Agent) -> None:
        self.coordinator, self.hosts, self.agent = coordinator, hosts, agent

    def look(self) -> GroupExit | None:
        mine, theirs, lost = self._parts()
        if mine is None and not lost and all(part.well for part in theirs.values()):
            return None
        deadline = time.monotonic() + self.LAST_NOTES_SECONDS
        while (mine is None or len(theirs) < len(self.hosts)) and not lost and time.monotonic() < deadline:
            time.sleep(0.1)
            mine, theirs, lost = self._parts()
        # A rank that still runs waits for ranks that are gone.
        self.agent.stop(0.0 if lost or mine is None else STOP_SECONDS)
        self.coordinator.abort_attempt()
        parts = [part for part in (mine, *theirs.values()) if part is not None]
        sentences = [f"{host} has not been heard of for {self.coordinator.LOST_SECONDS:.0f} s" for host in lost]
        sentences += [part.sentence for part in parts if not part.well]
        exits = [end for part in parts for end in part.exits]
        return GroupExit(exits=exits, sentence=next(iter(sentences), GroupExit.sentence))

    def _parts(self) -> tuple[GroupExit | None, dict[str, GroupExit], list[str]]:
        """How this machine's part ended and how those of others did, and the machines that are lost."""
        return self.agent.look(), self.coordinator.ended(self.hosts), self.coordinator.lost(self.hosts)

    def stop(self) -> None:
        # The ranks of this machine tell the others at their next step, and all end there.
        self.agent.stop()
        self.coordinator.abort_attempt()


def free_port(address: str) -> int:
    """A port of an address of this machine that no process uses now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
