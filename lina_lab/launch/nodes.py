"""Several machines that were given the same command: one leads, the others follow its orders.

The one that the rendezvous address belongs to leads: it alone has the study's stores. It answers over HTTP: every
second each other machine says how it is and hears what to do (wait; start its part of a group; end). A machine that is
not heard of for a while is lost; the group is then started again from the cell's last checkpoint, when the machine, or
another one, is there. Every exchange has a time limit, so a link that is cut blocks nobody.

All machines must see the folder of runs. A word that the leader writes there shows that they do, and lets no one else
in.
"""

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lina_lab.launch.contract import ProcessExit
from lina_lab.study.errors import StudyError
from lina_lab.util.files import write_atomically

if TYPE_CHECKING:
    from lina_lab.launch.group import GroupExit

JOIN_FILE = "hosts.json"
POLL_SECONDS = 1.0
ANSWER_SECONDS = 5.0
"""How long one exchange may take."""
SHUTDOWN_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class NodeHeartbeat:
    """What a machine says."""

    host: str
    command: dict[str, str]
    """What it was told to do, and with which code: the same on all machines."""
    word: str
    attempt: str | None = None
    """The attempt that it is at, or has ended."""
    ended: dict[str, Any] | None = None
    """How its part ended."""


@dataclass(frozen=True, kw_only=True)
class NodeCommand:
    """What a machine is to do."""

    do: str
    """wait, run, end or leave"""
    sentence: str = ""
    """Why, of end and leave."""
    folder: str = ""
    attempt: str = ""
    node: int = 0
    port: int = 0


def split_address(rendezvous: str | None) -> tuple[str, int]:
    """Host and port of HOST:PORT.

    Raises:
        ValueError: it is none, or one that other machines cannot reach.
    """
    if rendezvous is None:
        raise ValueError("several nodes need torchrun.rendezvous=HOST:PORT, an address of one of them")
    host, _, port = rendezvous.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"torchrun.rendezvous={rendezvous} is not HOST:PORT")
    try:
        address = socket.gethostbyname(host)
    except OSError as error:
        raise ValueError(f"torchrun.rendezvous={rendezvous}: {socket.gethostname()} cannot resolve {host}") from error
    if address.startswith("127."):
        raise ValueError(
            f"torchrun.rendezvous={rendezvous} is {address} on {socket.gethostname()}, which no other machine reaches: "
            "give the address by which they know it"
        )
    return address, int(port)


def is_mine(address: str) -> bool:
    """Whether an address is one of this machine's."""
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


@dataclass(frozen=True, kw_only=True)
class RendezvousConfig:
    """Where and when machines meet, and what for; the same on all of them."""

    address: str
    """Of the machine that leads, as the others know it."""
    port: int
    folder: Path
    """The study's, on a file system that all of them see."""
    command: Mapping[str, str]
    """See `NodeHeartbeat`."""
    first_seconds: float
    """How long they wait for each other at the start."""
    return_seconds: float
    """How long one that was lost may take to come back."""


@dataclass
class _Host:
    report: NodeHeartbeat
    seen: float


@dataclass
class _State:
    """What the leader knows and wants, behind a lock."""

    hosts: dict[str, _Host] = field(default_factory=dict)
    orders: dict[str, NodeCommand] = field(default_factory=dict)
    shutdown: NodeCommand | None = None
    told: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)


class NodeCoordinator:
    """The leader's side.

    Args:
        meeting: at an address of this machine.
        tell: is told who is waited for.

    Raises:
        StudyError: the port is taken.
    """

    LOST_SECONDS = 20.0
    """Not heard of for so long, a machine is lost."""

    def __init__(self, meeting: RendezvousConfig, tell: Callable[[str], None]) -> None:
        self.address, self.command, self.tell = meeting.address, meeting.command, tell
        self.patience, self.return_seconds = meeting.first_seconds, meeting.return_seconds
        self.word = secrets.token_hex(16)
        self._state, self._lock = _State(), threading.Lock()
        try:
            self._server = ThreadingHTTPServer((meeting.address, meeting.port), self._handler())
        except OSError as error:
            where = f"{meeting.address}:{meeting.port}"
            raise StudyError(
                f"{socket.gethostname()} cannot listen at {where} ({error.strerror}): another study may lead from "
                "there; give torchrun.rendezvous another port"
            ) from error
        meeting.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(meeting.folder / JOIN_FILE, json.dumps({"word": self.word}))
        threading.Thread(target=self._server.serve_forever, name="hosts", daemon=True).start()

    def _handler(coordinator: "NodeCoordinator") -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            timeout = ANSWER_SECONDS

            def do_POST(self) -> None:
                try:
                    report = NodeHeartbeat(**json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                except (ValueError, TypeError):
                    self.send_error(400, "not a report of a machine")
                    return
                answer = json.dumps(asdict(coordinator.hear(report))).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: Any) -> None:
                """Nothing: there is one each second."""

        return Handler

    def hear(self, report: NodeHeartbeat) -> NodeCommand:
        """Take note of what a machine says, and answer."""
        with self._lock:
            state = self._state
            if state.shutdown is not None:
                state.told.add(report.host)
                return state.shutdown
            refusal = self._refusal(report)
            if refusal is not None:
                state.refused[report.host] = refusal
                return NodeCommand(do="leave", sentence=refusal)
            state.refused.pop(report.host, None)
            state.hosts[report.host] = _Host(report, time.monotonic())
            return state.orders.get(report.host, NodeCommand(do="wait"))

    def _refusal(self, report: NodeHeartbeat) -> str | None:
        mine = socket.gethostname()
        if report.word != self.word:
            return f"{report.host} does not see the folder of runs that {mine} writes to: all machines must share it"
        names = sorted(self.command.keys() | report.command.keys())
        differing = [name for name in names if self.command.get(name) != report.command.get(name)]
        if differing:
            parts = [
                f"{name} is {report.command.get(name, 'absent')} there and {self.command.get(name, 'absent')} here"
                for name in differing
            ]
            return f"{report.host} was not given what {mine} was: {'; '.join(parts)}"
        return None

    def gather(self, count: int) -> list[str]:
        """The names of `count` other machines that are there, when they are.

        Raises:
            StudyError: they do not come.
        """
        deadline, told = time.monotonic() + self.patience, False
        while True:
            now = time.monotonic()
            with self._lock:
                present = [name for name, host in self._state.hosts.items() if now - host.seen < 3 * POLL_SECONDS]
                refused = list(self._state.refused.values())
            if len(present) >= count:
                self.patience = self.return_seconds
                return present[:count]
            if now > deadline:
                reasons = "; ".join(refused) or f"those heard of: {', '.join(present) or 'none'}"
                raise StudyError(
                    f"{len(present) + 1} of {count + 1} machines are there after {self.patience:.0f} s ({reasons}): "
                    f"run the same command on each, and see that they reach {self.address}"
                )
            if not told and now > deadline - self.patience + 5:
                self.tell(f"waiting for {count - len(present)} more machines at {self.address}")
                told = True
            time.sleep(0.1)

    def order(self, folder: Path, attempt: str, hosts: Sequence[str], port: int) -> None:
        """Have machines start their parts of a group; this one is node 0."""
        with self._lock:
            self._state.orders = {
                host: NodeCommand(do="run", folder=str(folder), attempt=attempt, node=node, port=port)
                for node, host in enumerate(hosts, start=1)
            }

    def ended(self, hosts: Sequence[str]) -> "dict[str, GroupExit]":
        """Machines whose part has ended, and how."""
        from lina_lab.launch.group import GroupExit

        found = {}
        with self._lock:
            for name in hosts:
                report = self._state.hosts[name].report
                if report.ended is not None and report.attempt == self._state.orders[name].attempt:
                    exits = [ProcessExit(**end) for end in report.ended["exits"]]
                    found[name] = GroupExit(**{**report.ended, "exits": exits})
        return found

    def lost(self, hosts: Sequence[str]) -> list[str]:
        """Those of the machines that have not been heard of for too long."""
        now = time.monotonic()
        with self._lock:
            return [name for name in hosts if now - self._state.hosts[name].seen > self.LOST_SECONDS]

    def abort_attempt(self) -> None:
        """Have all machines end what they are at, and wait."""
        with self._lock:
            self._state.orders = {}

    def close(self) -> None:
        """Send the machines away, and answer no more."""
        with self._lock:
            self._state.shutdown = NodeCommand(do="end", sentence="the study has ended")
            now = time.monotonic()
            present = {name for name, host in self._state.hosts.items() if now - host.seen < 3 * POLL_SECONDS}
        deadline = time.monotonic() + SHUTDOWN_SECONDS
        while time.monotonic() < deadline and not present <= self._state.told:
            time.sleep(0.1)
        self._server.shutdown()
        self._server.server_close()
