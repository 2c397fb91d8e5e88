"""A machine that follows the commands of the one that leads (`nodes.py`)."""

import json
import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import requests

from lina_lab.launch import nodes
from lina_lab.launch.nodes import NodeCommand, NodeCoordinator, NodeHeartbeat, RendezvousConfig
from lina_lab.launch.torchrun import Agent
from lina_lab.records.status import NodeAction
from lina_lab.util.errors import StudyError
from lina_lab.util.signals import stop_if_asked


def follow(rendezvous: RendezvousConfig, tell: Callable[[str], None]) -> None:
    """Follow the commands of the machine at a rendezvous, until it says that the study has ended.

    Raises:
        StudyError: it cannot be reached, or refuses this machine.
    """
    follower, where = _Follower(rendezvous), f"{rendezvous.address}:{rendezvous.port}"
    answered, patience = time.monotonic(), rendezvous.first_seconds
    found = False
    try:
        while True:
            stop_if_asked()
            command = follower.ask()
            now = time.monotonic()
            if command is not None:
                if not found:
                    tell(f"following {where}")
                answered, patience, found = now, rendezvous.return_seconds, True
                if command.do is NodeAction.LEAVE:
                    raise StudyError(command.sentence)
                if command.do is NodeAction.END:
                    tell(command.sentence)
                    return
                follower.act(command)
            elif now - answered > NodeCoordinator.LOST_SECONDS:
                follower.stop()
                if now - answered > patience:
                    raise StudyError(
                        f"{socket.gethostname()} has not reached {where} for {patience:.0f} s: see that the "
                        "same command runs there, and that torchrun.rendezvous is an address of that machine"
                    )
            time.sleep(nodes.POLL_SECONDS)
    finally:
        follower.stop()


class _Follower:
    def __init__(self, rendezvous: RendezvousConfig) -> None:
        self.rendezvous = rendezvous
        self.agent: Agent | None = None

    def ask(self) -> NodeCommand | None:
        """Report how this machine is, and return what it is to do; None: no answer."""
        heartbeat = NodeHeartbeat(
            host=socket.gethostname(),
            command=dict(self.rendezvous.command),
            join_token=self._join_token(),
            attempt=None if self.agent is None else self.agent.attempt,
            ended=None if self.agent is None else self.agent.look(),
        )
        url = f"http://{self.rendezvous.address}:{self.rendezvous.port}/"
        try:
            answer = requests.post(url, json=asdict(heartbeat), timeout=nodes.ANSWER_SECONDS)
            return NodeCommand.from_dict(answer.json())
        except (requests.RequestException, TypeError, KeyError, ValueError):
            # An answer that is no command is another service's at this address.
            return None

    def _join_token(self) -> str:
        """The token that the leader wrote; empty where this machine does not see it, which the leader then says."""
        try:
            return str(json.loads((self.rendezvous.folder / nodes.JOIN_FILE).read_text())["join_token"])
        except (OSError, ValueError, KeyError):
            return ""

    def act(self, command: NodeCommand) -> None:
        """Carry out a command."""
        if command.do is not NodeAction.RUN:
            self.stop()
        elif self.agent is None or self.agent.attempt != command.attempt:
            self.stop()
            address = self.rendezvous.address
            self.agent = Agent(Path(command.folder), command.node, address, command.port, command.attempt)

    def stop(self) -> None:
        """End this machine's part at once: the ranks that it waits for are gone."""
        if self.agent is not None:
            self.agent.stop(0.0)
            self.agent = None
