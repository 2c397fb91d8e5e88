"""Several machines that run the same command: one leads, the others follow its commands.

The machine that the rendezvous address belongs to leads: it alone has the study's stores. It answers over HTTP: every
second each other machine sends a heartbeat and gets a command (wait; start its part of a group; end). A machine whose
heartbeats stop is lost; the group is then restarted from the cell's last checkpoint, once that machine, or another one,
is there. Every exchange has a time limit, so a link that is cut blocks no machine.

All machines must see the folder of runs. A key that the leader writes there proves that they do, and keeps strangers
out: all that is heard or obeyed is signed with it (`messages.py`).
"""

import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lina_lab.launch import messages
from lina_lab.launch.contract import GroupExit
from lina_lab.launch.messages import NodeCommand, NodeHeartbeat
from lina_lab.records.status import NodeAction
from lina_lab.util.errors import StudyError

POLL_SECONDS = 1.0
ANSWER_SECONDS = 5.0
"""How long one exchange may take."""
SHUTDOWN_SECONDS = 10.0
MAX_REFUSED = 32
"""How many machines that are refused are remembered: anyone who reaches the port can be one."""
MAX_SESSIONS = 4096
"""Likewise, of processes that follow."""
MAX_EXCHANGES = 64
"""Exchanges at a time; further connections are closed."""


def split_address(rendezvous: str | None) -> tuple[str, int]:
    """Host and port of HOST:PORT.

    Raises:
        ValueError: it is missing, malformed, or one that other machines cannot reach.
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
    """Where machines meet, how long they wait, and what they must agree on; the same on all of them."""

    address: str
    """The leading machine's, as the others reach it."""
    port: int
    folder: Path
    """The study's, on a file system that all of them see."""
    command: Mapping[str, str]
    """See `messages.NodeHeartbeat`."""
    first_seconds: float
    """How long they wait for each other at the start."""
    return_seconds: float
    """How long one that was lost may take to come back."""


class NodeCoordinator:
    """The leader's side.

    Args:
        rendezvous: at an address of this machine.
        tell: called with a line when machines are waited for.

    Raises:
        StudyError: the port is taken.
    """

    LOST_SECONDS = 20.0
    """A machine without a heartbeat for so long is lost."""

    def __init__(self, rendezvous: RendezvousConfig, tell: Callable[[str], None]) -> None:
        self.address, self.command, self.tell = rendezvous.address, rendezvous.command, tell
        self.patience, self.return_seconds = rendezvous.first_seconds, rendezvous.return_seconds
        self._lock = threading.Lock()
        """Held by all that read or write the attributes below."""
        self._heartbeats: dict[str, NodeHeartbeat] = {}
        self._seen: dict[str, float] = {}
        """When the heartbeats came, by `time.monotonic`."""
        self._commands: dict[str, NodeCommand] = {}
        self._shutdown: NodeCommand | None = None
        """The answer to all, once the study has ended."""
        self._dismissed: set[str] = set()
        """Hosts that have got it."""
        self._refused: dict[str, str] = {}
        """Host -> why."""
        self._counts: dict[str, int] = {}
        """Session -> the count of its last heartbeat."""
        try:
            self._server = _Server((rendezvous.address, rendezvous.port), self._handler())
        except OSError as error:
            where = f"{rendezvous.address}:{rendezvous.port}"
            raise StudyError(
                f"{socket.gethostname()} cannot listen at {where} ({error.strerror}): another study may lead from "
                "there; give torchrun.rendezvous another port"
            ) from error
        self.key = messages.write_key(rendezvous.folder)
        threading.Thread(target=self._server.serve_forever, name="hosts", daemon=True).start()

    def _handler(coordinator: "NodeCoordinator") -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            timeout = ANSWER_SECONDS

            def do_POST(self) -> None:
                try:
                    length = int(self.headers["Content-Length"] or -1)
                    if not 0 <= length <= messages.MAX_BYTES:
                        raise ValueError(length)
                    body, signed = self.rfile.read(length), self.headers.get(messages.SIGNATURE, "")
                    heartbeat = messages.heartbeat_of(body)
                except ValueError:
                    self.send_error(400, "not a heartbeat of a machine")
                    return
                if not coordinator.admits(heartbeat, messages.is_signed(coordinator.key, signed, body)):
                    self.send_error(403, "not signed with the key of this study")
                    return
                answer = messages.pack(coordinator.hear(heartbeat))
                self.send_response(200)
                self.send_header(messages.SIGNATURE, messages.signature(coordinator.key, answer, signed))
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: Any) -> None:
                """Print nothing: there is one request each second."""

        return Handler

    def admits(self, heartbeat: NodeHeartbeat, signed: bool) -> bool:
        """Whether a heartbeat is one of the study's machines, and new: not one that a stranger has kept and repeats."""
        with self._lock:
            if not signed:
                if len(self._refused) < MAX_REFUSED:
                    self._refused[heartbeat.host] = (
                        f"{heartbeat.host} does not see the folder of runs that {socket.gethostname()} writes to: all "
                        "machines must share it, and work in it as the same user"
                    )
                return False
            last = self._counts.get(heartbeat.session, -1)
            if heartbeat.count <= last or (last < 0 and len(self._counts) >= MAX_SESSIONS):
                return False
            self._counts[heartbeat.session] = heartbeat.count
            return True

    def hear(self, heartbeat: NodeHeartbeat) -> NodeCommand:
        """Take note of a machine's heartbeat, and answer with its command."""
        with self._lock:
            if self._shutdown is not None:
                self._dismissed.add(heartbeat.host)
                return self._shutdown
            refusal = self._refusal(heartbeat)
            if refusal is not None:
                self._refused[heartbeat.host] = refusal
                return NodeCommand(do=NodeAction.LEAVE, sentence=refusal[:4096])
            self._refused.pop(heartbeat.host, None)
            self._heartbeats[heartbeat.host], self._seen[heartbeat.host] = heartbeat, time.monotonic()
            return self._commands.get(heartbeat.host, NodeCommand(do=NodeAction.WAIT))

    def _refusal(self, heartbeat: NodeHeartbeat) -> str | None:
        mine = socket.gethostname()
        differing = [
            f"{name} is {heartbeat.command.get(name, 'absent')} there and {self.command.get(name, 'absent')} here"
            for name in sorted(self.command.keys() | heartbeat.command.keys())
            if self.command.get(name) != heartbeat.command.get(name)
        ]
        return f"{heartbeat.host} does not run what {mine} runs: {'; '.join(differing)}" if differing else None

    def gather(self, count: int) -> list[str]:
        """Wait for `count` other machines, and return their names.

        Raises:
            StudyError: they do not come in time.
        """
        deadline, announced = time.monotonic() + self.patience, False
        while True:
            now = time.monotonic()
            with self._lock:
                present, refused = self._present(), list(self._refused.values())
            if len(present) >= count:
                self.patience = self.return_seconds
                return present[:count]
            if now > deadline:
                reasons = "; ".join(refused) or f"those heard of: {', '.join(present) or 'none'}"
                raise StudyError(
                    f"{len(present) + 1} of {count + 1} machines are there after {self.patience:.0f} s ({reasons}): "
                    f"run the same command on each, and see that they reach {self.address}"
                )
            if not announced and now > deadline - self.patience + 5:
                self.tell(f"waiting for {count - len(present)} more machines at {self.address}")
                announced = True
            time.sleep(0.1)

    def _present(self) -> list[str]:
        return [host for host, seen in self._seen.items() if time.monotonic() - seen < 3 * POLL_SECONDS]

    def start(self, folder: Path, attempt: str, hosts: Sequence[str], port: int) -> None:
        """Have machines start their parts of a group; this one is node 0."""
        with self._lock:
            self._commands = {
                host: NodeCommand(do=NodeAction.RUN, cell=folder.name, attempt=attempt, node=node, port=port)
                for node, host in enumerate(hosts, start=1)
            }

    def ended(self, hosts: Sequence[str]) -> dict[str, GroupExit]:
        """How the parts of machines ended, for those whose part has ended."""
        with self._lock:
            heartbeats = [self._heartbeats[host] for host in hosts]
            return {
                beat.host: beat.ended
                for beat in heartbeats
                if beat.ended is not None and beat.attempt == self._commands[beat.host].attempt
            }

    def lost(self, hosts: Sequence[str]) -> list[str]:
        """Machines whose last heartbeat is too long ago."""
        with self._lock:
            return [host for host in hosts if time.monotonic() - self._seen[host] > self.LOST_SECONDS]

    def abort_attempt(self) -> None:
        """Have all machines end their part of the attempt, and wait."""
        with self._lock:
            self._commands = {}

    def close(self) -> None:
        """Dismiss the machines, and stop answering."""
        with self._lock:
            self._shutdown = NodeCommand(do=NodeAction.END, sentence="the study has ended")
            present = set(self._present())
        deadline = time.monotonic() + SHUTDOWN_SECONDS
        while time.monotonic() < deadline and not present <= self._dismissed:
            time.sleep(0.1)
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """Answers each connection in a thread, and a bounded number of them at a time."""

    def __init__(self, *args: Any) -> None:
        self._free = threading.BoundedSemaphore(MAX_EXCHANGES)
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()
