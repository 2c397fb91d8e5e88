"""A machine that follows the orders of the one that leads (`hosts.py`)."""

import json
import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import requests

from lina_lab.launch.nodes import (
    ANSWER_SECONDS,
    JOIN_FILE,
    POLL_SECONDS,
    NodeCommand,
    NodeCoordinator,
    NodeHeartbeat,
    RendezvousConfig,
)
from lina_lab.launch.torchrun import Agent
from lina_lab.study.errors import StudyError


def follow(meeting: RendezvousConfig, tell: Callable[[str], None]) -> None:
    """Follow the orders of the machine that a meeting is at, until it says that the study has ended.

    Raises:
        StudyError: it cannot be reached, or does not want this machine.
    """
    follower, where = _Follower(meeting), f"{meeting.address}:{meeting.port}"
    heard, patience = time.monotonic(), meeting.first_seconds
    told = False
    try:
        while True:
            answer = follower.ask()
            now = time.monotonic()
            if answer is not None:
                if not told:
                    tell(f"following {where}")
                heard, patience, told = now, meeting.return_seconds, True
                if answer.do == "leave":
                    raise StudyError(answer.sentence)
                if answer.do == "end":
                    tell(answer.sentence)
                    return
                follower.act(answer)
            elif now - heard > NodeCoordinator.LOST_SECONDS:
                follower.stop()
                if now - heard > patience:
                    raise StudyError(
                        f"{socket.gethostname()} has not reached {where} for {patience:.0f} s: see that the "
                        "same command runs there, and that torchrun.rendezvous is an address of that machine"
                    )
            time.sleep(POLL_SECONDS)
    finally:
        follower.stop()


class _Follower:
    def __init__(self, meeting: RendezvousConfig) -> None:
        self.meeting = meeting
        self.agent: Agent | None = None

    def ask(self) -> NodeCommand | None:
        """Say how this machine is, and hear what to do; None: no answer."""
        ended = None if self.agent is None else self.agent.look()
        report = NodeHeartbeat(
            host=socket.gethostname(),
            command=dict(self.meeting.command),
            word=self._word(),
            attempt=None if self.agent is None else self.agent.attempt,
            ended=None if ended is None else asdict(ended),
        )
        try:
            url = f"http://{self.meeting.address}:{self.meeting.port}/"
            answer = requests.post(url, json=asdict(report), timeout=ANSWER_SECONDS)
            return NodeCommand(**answer.json())
        except (requests.RequestException, TypeError):
            return None

    def _word(self) -> str:
        try:
            return str(json.loads((self.meeting.folder / JOIN_FILE).read_text())["word"])
        except OSError:
            return ""

    def act(self, orders: NodeCommand) -> None:
        """Do as told."""
        if orders.do != "run":
            self.stop()
        elif self.agent is None or self.agent.attempt != orders.attempt:
            self.stop()
            self.agent = Agent(Path(orders.folder), orders.node, self.meeting.address, orders.port, orders.attempt)

    def stop(self) -> None:
        """End this machine's part at once: what it waits for is gone."""
        if self.agent is not None:
            self.agent.end(0.0)
            self.agent = None
