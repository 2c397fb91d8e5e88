"""A machine that follows the commands of the one that leads (`nodes.py`)."""

import secrets
import socket
import time
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection, HTTPException

from lina_lab.launch import messages, nodes
from lina_lab.launch.messages import NodeCommand, NodeHeartbeat
from lina_lab.launch.nodes import NodeCoordinator, RendezvousConfig
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
                        f"{follower.doubt}"
                    )
            time.sleep(nodes.POLL_SECONDS)
    finally:
        follower.stop()


class _Follower:
    def __init__(self, rendezvous: RendezvousConfig) -> None:
        self.rendezvous = rendezvous
        self.agent: Agent | None = None
        self.session, self.count = secrets.token_hex(16), 0
        self.doubt = ""
        """What the last exchange was like, for people."""

    def ask(self) -> NodeCommand | None:
        """Report how this machine is, and return what it is to do; None: no answer from the machine that leads."""
        key, self.count = messages.read_key(self.rendezvous.folder), self.count + 1
        heartbeat = NodeHeartbeat(
            host=socket.gethostname(),
            command=dict(self.rendezvous.command),
            session=self.session,
            count=self.count,
            attempt=None if self.agent is None else self.agent.attempt,
            ended=None if self.agent is None else self.agent.look(),
        )
        body = messages.pack(heartbeat)
        signed, self.doubt = messages.signature(key, body), ""
        try:
            answer, signed_there = self._exchange(body, signed)
        except (OSError, HTTPException):
            return None
        if not messages.is_signed(key, signed_there, answer, signed):
            # Another service's or a stranger's, or the leader does not take this machine for one of the study's.
            file = self.rendezvous.folder / messages.KEY_FILE
            self.doubt = (
                f" (what answers there does not sign with the key in {file}: all machines must share that file)"
            )
            return None
        try:
            return messages.command_of(answer)
        except ValueError as error:
            raise StudyError(
                f"{self.rendezvous.address} runs another version of lina_lab: it gives other orders"
            ) from error

    def _exchange(self, body: bytes, signed: str) -> tuple[bytes, str]:
        """Send a message; returns the answer and its signature. Neither a proxy nor another address is asked."""
        address, port = self.rendezvous.address, self.rendezvous.port
        with closing(HTTPConnection(address, port, timeout=nodes.ANSWER_SECONDS)) as connection:
            connection.request("POST", "/", body, {messages.SIGNATURE: signed})
            answer = connection.getresponse()
            return answer.read(messages.MAX_BYTES), answer.headers.get(messages.SIGNATURE, "")

    def act(self, command: NodeCommand) -> None:
        """Carry out a command."""
        if command.do is not NodeAction.RUN:
            self.stop()
        elif command.cell and command.attempt and (self.agent is None or self.agent.attempt != command.attempt):
            self.stop()
            address, folder = self.rendezvous.address, self.rendezvous.folder / command.cell
            self.agent = Agent(folder, command.node, address, command.port, command.attempt)

    def stop(self) -> None:
        """End this machine's part at once: the ranks that it waits for are gone."""
        if self.agent is not None:
            self.agent.stop(0.0)
            self.agent = None
