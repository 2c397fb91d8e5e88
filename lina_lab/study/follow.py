"""A machine that follows the orders of the one that leads (`hosts.py`)."""

import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import requests

from lina_lab.study.errors import StudyError
from lina_lab.study.hosts import ANSWER_SECONDS, POLL_SECONDS, WORD_FILE, Muster, Orders, Report
from lina_lab.study.torchrun import Agent


def follow(
    address: str,
    port: int,
    folder: Path,
    command: Mapping[str, str],
    tell: Callable[[str], None],
    *,
    first_seconds: float,
    return_seconds: float,
) -> None:
    """Follow the orders of the machine at an address until it says that the study has ended.

    Raises:
        StudyError: it cannot be reached, or does not want this machine.
    """
    follower = _Follower(address, port, folder, command)
    heard, patience = time.monotonic(), first_seconds
    try:
        while True:
            answer = follower.ask()
            now = time.monotonic()
            if answer is not None:
                if patience != return_seconds:
                    tell(f"following {address}:{port}")
                heard, patience = now, return_seconds
                if answer.do == "leave":
                    raise StudyError(answer.sentence)
                if answer.do == "end":
                    tell(answer.sentence)
                    return
                follower.act(answer)
            elif now - heard > Muster.LOST_SECONDS:
                follower.stop()
                if now - heard > patience:
                    raise StudyError(
                        f"{socket.gethostname()} has not reached {address}:{port} for {patience:.0f} s: see that the "
                        "same command runs there, and that torchrun.rendezvous is an address of that machine"
                    )
            time.sleep(POLL_SECONDS)
    finally:
        follower.stop()


class _Follower:
    def __init__(self, address: str, port: int, folder: Path, command: Mapping[str, str]) -> None:
        self.address, self.url, self.folder = address, f"http://{address}:{port}/", folder
        self.command = dict(command)
        self.agent: Agent | None = None

    def ask(self) -> Orders | None:
        """Say how this machine is, and hear what to do; None: no answer."""
        ended = None if self.agent is None else self.agent.look()
        report = Report(
            host=socket.gethostname(),
            command=self.command,
            word=self._word(),
            attempt=None if self.agent is None else self.agent.attempt,
            ended=None if ended is None else asdict(ended),
        )
        try:
            answer = requests.post(self.url, json=asdict(report), timeout=ANSWER_SECONDS)
            return Orders(**answer.json())
        except (requests.RequestException, TypeError):
            return None

    def _word(self) -> str:
        try:
            return str(json.loads((self.folder / WORD_FILE).read_text())["word"])
        except FileNotFoundError:
            return ""

    def act(self, orders: Orders) -> None:
        """Do as told."""
        if orders.do != "run":
            self.stop()
        elif self.agent is None or self.agent.attempt != orders.attempt:
            self.stop()
            self.agent = Agent(Path(orders.folder), orders.node, self.address, orders.port, orders.attempt)

    def stop(self) -> None:
        """End this machine's part at once: what it waits for is gone."""
        if self.agent is not None:
            self.agent.end(0.0)
            self.agent = None
