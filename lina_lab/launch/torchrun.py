"""TorchElastic as the engine: on this machine, or on several that run the same command (`nodes.py`)."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from lina_lab.launch.contract import EngineName, GroupExit, LaunchSpec, ProcessExit, Running, refuse_job
from lina_lab.launch.nodes import NodeCoordinator
from lina_lab.records.files import LOGS

STOP_SECONDS = 60.0
"""How long a group may take to save its state."""
LOOPBACK = "127.0.0.1"


def agent_command(folder: Path | str, node: int | str, master: str, port: int | str) -> list[str]:
    """The command line of a machine's part of a group."""
    return [sys.executable, "-m", "lina_lab.launch.agent", str(folder), str(node), master, str(port)]


class Agent:
    """A machine's part of a group: the process that watches the ranks there."""

    def __init__(self, folder: Path, node: int, master: str, port: int, attempt: str) -> None:
        self.folder, self.node, self.attempt = folder, node, attempt
        with (folder / LOGS / f"node-{node}.log").open("ab") as log:
            # A session of its own: Ctrl-C in the terminal is for the launcher, which then ends the group in order.
            self.process = subprocess.Popen(
                agent_command(folder, node, master, port), stdout=log, stderr=log, start_new_session=True
            )

    def look(self) -> GroupExit | None:
        """How it ended; None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        note = read_node(self.folder, self.node, self.attempt)
        if note is not None:
            return note
        sentence = f"{socket.gethostname()}: the agent ended with exit code {code}: see {self._log}"
        return GroupExit(sentence=sentence)

    @property
    def _log(self) -> Path:
        return self.folder / LOGS / f"node-{self.node}.log"

    def ask_to_end(self) -> None:
        """Ask the ranks to save their state and end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def end(self, patience: float) -> None:
        """Make sure that it ends, and kill it after `patience` seconds."""
        self.ask_to_end()
        try:
            self.process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def read_node(folder: Path, node: int, attempt: str) -> GroupExit | None:
    """How an agent's ranks ended, by its own note; None: it has left none."""
    try:
        note = json.loads((folder / LOGS / f"node-{node}.json").read_text())
    except FileNotFoundError:
        return None
    if note["attempt"] != attempt:
        return None
    exits = [ProcessExit(**end) for end in note["exits"]]
    if note["error"]:
        return GroupExit(exits=exits, sentence=note["error"])
    return GroupExit(exits=exits, well=not exits)


class OneMachine:
    """Groups on this machine."""

    name = EngineName.TORCHRUN

    def start(self, folder: Path, spec: LaunchSpec) -> Running:
        refuse_job(folder)
        return _Alone(Agent(folder, 0, LOOPBACK, free_port(LOOPBACK), spec.attempt))

    def resume(self, folder: Path) -> None:
        """None: a group here ends with the process that started it."""

    def close(self) -> None:
        pass


class _Alone:
    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def look(self) -> GroupExit | None:
        return self.agent.look()

    def stop(self) -> None:
        self.agent.end(STOP_SECONDS)


class SeveralMachines:
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

    def resume(self, folder: Path) -> None:
        """None: a group ends with the process that started it."""

    def close(self) -> None:
        self.coordinator.close()


class _Together:
    """This machine's agent, and those of the hosts that were told to start theirs."""

    LAST_NOTES_SECONDS = 5.0
    """How long the other machines may take to report what they saw, once one has seen the end."""

    def __init__(self, coordinator: NodeCoordinator, hosts: list[str], agent: Agent) -> None:
        self.coordinator, self.hosts, self.agent = coordinator, hosts, agent

    def look(self) -> GroupExit | None:
        lost = self.coordinator.lost(self.hosts)
        theirs = self.coordinator.ended(self.hosts)
        mine = self.agent.look()
        if mine is None and not lost and all(part.well for part in theirs.values()):
            return None
        deadline = time.monotonic() + self.LAST_NOTES_SECONDS
        while (mine is None or len(theirs) < len(self.hosts)) and not lost and time.monotonic() < deadline:
            time.sleep(0.1)
            mine, theirs, lost = (
                self.agent.look(),
                self.coordinator.ended(self.hosts),
                self.coordinator.lost(self.hosts),
            )
        # A rank that still runs waits for ranks that are gone.
        self.agent.end(0.0 if lost or mine is None else STOP_SECONDS)
        self.coordinator.abort_attempt()
        exits = [end for part in (mine, *theirs.values()) if part is not None for end in part.exits]
        if lost:
            return GroupExit(
                exits=exits, sentence=f"{lost[0]} has not been heard of for {self.coordinator.LOST_SECONDS:.0f} s"
            )
        sentences = [part.sentence for part in (mine, *theirs.values()) if part is not None and not part.well]
        return GroupExit(exits=exits, sentence=sentences[0] if sentences else GroupExit().sentence)

    def stop(self) -> None:
        # The ranks of this machine tell the others at their next step, and all end there.
        self.agent.end(STOP_SECONDS)
        self.coordinator.abort_attempt()


def free_port(address: str) -> int:
    """A port of an address of this machine that no process uses now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
