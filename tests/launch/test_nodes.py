"""What the leading machine answers and refuses; a real network is in tests/system."""

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from lina_lab.launch import messages, nodes
from lina_lab.launch.contract import GroupExit, ProcessExit
from lina_lab.launch.follow import follow
from lina_lab.launch.messages import NodeCommand, NodeHeartbeat, command_of, heartbeat_of, pack, signature
from lina_lab.launch.nodes import NodeCoordinator, RendezvousConfig, is_mine, split_address
from lina_lab.launch.torchrun import free_port
from lina_lab.records.status import NodeAction
from lina_lab.util.errors import StudyError

HERE = "127.0.0.1"
COMMAND = {"study.name": "tiny", "torch": "1"}


def rendezvous_at(port: int, folder: Path, seconds: float) -> RendezvousConfig:
    return RendezvousConfig(
        address=HERE, port=port, folder=folder, command=COMMAND, first_seconds=seconds, return_seconds=seconds
    )


@pytest.fixture
def coordinator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NodeCoordinator]:
    monkeypatch.setattr(nodes, "SHUTDOWN_SECONDS", 0.0)
    made = NodeCoordinator(rendezvous_at(free_port(HERE), tmp_path, 0.3), lambda line: None)
    yield made
    made.close()


def says(host: str = "b", **changes: object) -> NodeHeartbeat:
    return replace(NodeHeartbeat(host=host, command=COMMAND), **changes)  # type: ignore[arg-type]


def port_of(coordinator: NodeCoordinator) -> int:
    return int(coordinator._server.server_address[1])


def send(port: int, body: bytes, signed: str = "", **headers: str) -> tuple[int, bytes, str]:
    """The status, the body and the signature of an answer."""
    with closing(http.client.HTTPConnection(HERE, port, timeout=20)) as connection:
        connection.request("POST", "/", body, {messages.SIGNATURE: signed, **headers})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers.get(messages.SIGNATURE, "")


def test_machines_are_gathered_commanded_heard_and_dismissed(coordinator: NodeCoordinator, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"1 of 2 machines are there after 0 s \(those heard of: none\)"):
        coordinator.gather(1)
    assert coordinator.hear(says()) == NodeCommand(do=NodeAction.WAIT)
    assert coordinator.hear(says("c")) == NodeCommand(do=NodeAction.WAIT)
    assert coordinator.gather(1) == ["b"]
    coordinator.start(tmp_path, "first", ["b"], 5)
    assert coordinator.hear(says()) == NodeCommand(
        do=NodeAction.RUN, cell=tmp_path.name, attempt="first", node=1, port=5
    )
    assert coordinator.hear(says("c")) == NodeCommand(do=NodeAction.WAIT)
    assert coordinator.ended(["b"]) == {}
    ended = GroupExit(exits=[ProcessExit(rank=1, code=-9, host="b")], sentence="it died")
    coordinator.hear(says(attempt="before", ended=ended))
    assert coordinator.ended(["b"]) == {}
    coordinator.hear(says(attempt="first", ended=ended))
    assert coordinator.ended(["b"]) == {"b": ended}
    coordinator.abort_attempt()
    assert coordinator.hear(says()).do is NodeAction.WAIT
    assert coordinator.lost(["b"]) == []


def test_one_that_runs_another_command_is_refused(coordinator: NodeCoordinator) -> None:
    here = socket.gethostname()
    sentence = f"b does not run what {here} runs: torch is 2 there and 1 here"
    answer = coordinator.hear(says(command={"study.name": "tiny", "torch": "2"}))
    assert answer == NodeCommand(do=NodeAction.LEAVE, sentence=sentence)
    assert not coordinator.admits(says(), False)
    with pytest.raises(StudyError, match=f"b does not see the folder of runs that {here} writes to"):
        coordinator.gather(1)
    assert coordinator.hear(says()).do is NodeAction.WAIT
    assert coordinator.gather(1) == ["b"]


def test_one_that_falls_silent_is_lost(coordinator: NodeCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator.hear(says())
    monkeypatch.setattr(NodeCoordinator, "LOST_SECONDS", -1.0)
    assert coordinator.lost(["b"]) == ["b"]


def test_a_port_that_is_taken_is_refused(coordinator: NodeCoordinator, tmp_path: Path) -> None:
    port = coordinator._server.server_address[1]
    with pytest.raises(StudyError, match=f"cannot listen at {HERE}:{port}"):
        NodeCoordinator(rendezvous_at(int(port), tmp_path, 1), lambda line: None)


def test_the_key_is_its_owner_s_alone_and_another_one_each_time(coordinator: NodeCoordinator, tmp_path: Path) -> None:
    file = tmp_path / "hosts.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert messages.read_key(tmp_path) == coordinator.key
    (tmp_path / "hosts.json.draft").touch(0o666)
    assert messages.write_key(tmp_path) != coordinator.key
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("[]")
    assert messages.read_key(tmp_path) == ""


def test_a_signed_heartbeat_is_answered_once_and_with_a_signature_for_it(coordinator: NodeCoordinator) -> None:
    port, body = port_of(coordinator), pack(says(count=1))
    signed = signature(coordinator.key, body)
    status, answer, back = send(port, body, signed)
    assert (status, command_of(answer).do) == (200, NodeAction.WAIT)
    assert messages.is_signed(coordinator.key, back, answer, signed)
    assert not messages.is_signed(coordinator.key, back, answer, signature(coordinator.key, pack(says(count=2))))
    assert send(port, body, signed)[0] == 403, "the same one again"
    assert coordinator.gather(1) == ["b"]


@pytest.mark.parametrize("key", ["", "guessed"])
def test_an_unsigned_heartbeat_is_not_heard(coordinator: NodeCoordinator, key: str) -> None:
    body = pack(says())
    status, _, signed = send(port_of(coordinator), body, signature(key, body) if key else "")
    assert (status, signed) == (403, "")
    assert coordinator._heartbeats == coordinator._seen == coordinator._counts == {}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"no json",
        b'{"host": 1}',
        b"[" * 5000,
        json.dumps({"host": "b\n", "command": {}}).encode(),
        json.dumps({"host": "b", "command": [], "session": "s"}).encode(),
        json.dumps({"host": "b", "command": {}, "count": "1"}).encode(),
        json.dumps({"host": "b", "command": {}, "ended": {"exits": [{"rank": "x"}]}}).encode(),
        json.dumps({"host": "b", "command": {}, "more": 1}).encode(),
        json.dumps({"host": "b", "command": {"x": "y" * 2**16}}).encode(),
    ],
)
def test_what_is_no_heartbeat_is_refused(coordinator: NodeCoordinator, body: bytes) -> None:
    assert send(port_of(coordinator), body, signature(coordinator.key, body))[0] == 400


@pytest.mark.parametrize("length", ["-1", "x", str(2**40)])
def test_a_length_that_is_none_is_refused_at_once(coordinator: NodeCoordinator, length: str) -> None:
    with closing(http.client.HTTPConnection(HERE, port_of(coordinator), timeout=4)) as connection:
        connection.request("POST", "/", headers={"Content-Length": length})
        assert connection.getresponse().status == 400


def test_strangers_fill_no_table(coordinator: NodeCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2 * nodes.MAX_REFUSED):
        assert not coordinator.admits(says(f"stranger{number}"), False)
    assert len(coordinator._refused) == nodes.MAX_REFUSED
    monkeypatch.setattr(nodes, "MAX_SESSIONS", 2)
    assert [coordinator.admits(says(), True) for _ in range(3)] == [True, True, False]


def test_so_many_connections_are_answered_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "SHUTDOWN_SECONDS", 0.0)
    monkeypatch.setattr(nodes, "MAX_EXCHANGES", 2)
    made = NodeCoordinator(rendezvous_at(free_port(HERE), tmp_path, 0.3), lambda line: None)
    try:
        idle = [socket.create_connection((HERE, port_of(made)), timeout=4) for _ in range(3)]
        assert idle[2].recv(1) == b""
        for connection in idle:
            connection.close()
    finally:
        made.close()


@pytest.fixture
def answering() -> Iterator[Callable[[Callable[[bytes, str], tuple[bytes, str]]], int]]:
    """Makes a service that answers a body and its signature with another pair; returns its port."""
    made: list[HTTPServer] = []

    def make(answer: Callable[[bytes, str], tuple[bytes, str]]) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = self.rfile.read(int(self.headers["Content-Length"]))
                body, signed = answer(asked, self.headers[messages.SIGNATURE])
                self.send_response(200)
                self.send_header(messages.SIGNATURE, signed)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                """Nothing."""

        server = HTTPServer((HERE, 0), Handler)
        made.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return int(server.server_address[1])

    yield make
    for server in made:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("how", ["unsigned", "another key", "for another heartbeat"])
def test_an_order_of_a_stranger_is_not_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answering: Callable[..., int], how: str
) -> None:
    monkeypatch.setattr(NodeCoordinator, "LOST_SECONDS", 0.0)
    started: list[object] = []
    monkeypatch.setattr("lina_lab.launch.follow.Agent", lambda *arguments: started.append(arguments))
    key = messages.write_key(tmp_path)
    order = pack(NodeCommand(do=NodeAction.RUN, cell="cell", attempt="a", node=1, port=1))

    def answer(body: bytes, signed: str) -> tuple[bytes, str]:
        assert key.encode() not in body
        return order, {
            "unsigned": "",
            "another key": signature("guessed", order, signed),
            "for another heartbeat": signature(key, order, signature(key, b"recorded")),
        }[how]

    with pytest.raises(StudyError, match=f"what answers there does not sign with the key in {tmp_path}/hosts.json"):
        follow(rendezvous_at(answering(answer), tmp_path, 0.1), lambda line: None)
    assert started == []


def test_an_order_of_the_leader_is_obeyed_within_the_study_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answering: Callable[..., int]
) -> None:
    started: list[Any] = []

    class Started:
        attempt = "a"

        def __init__(self, *arguments: object) -> None:
            started.append(arguments)

        def look(self) -> None:
            """It runs."""

        def stop(self, patience: float) -> None:
            """Nothing."""

    monkeypatch.setattr("lina_lab.launch.follow.Agent", Started)
    monkeypatch.setattr(nodes, "POLL_SECONDS", 0.01)
    key = messages.write_key(tmp_path)
    run = NodeCommand(do=NodeAction.RUN, cell="cell", attempt="a", node=1, port=5)
    orders = [run, run, NodeCommand(do=NodeAction.END, sentence="the end")]

    def answer(body: bytes, signed: str) -> tuple[bytes, str]:
        assert messages.is_signed(key, signed, body)
        order = pack(orders.pop(0))
        return order, signature(key, order, signed)

    lines: list[str] = []
    port = answering(answer)
    follow(rendezvous_at(port, tmp_path, 30), lines.append)
    assert started == [(tmp_path / "cell", 1, HERE, 5, "a")]
    assert lines == [f"following {HERE}:{port}", "the end"]


def test_a_leader_and_a_follower_understand_each_other(
    tmp_path: Path, coordinator: NodeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "SHUTDOWN_SECONDS", 30.0)
    coordinator.patience = 30
    here = rendezvous_at(port_of(coordinator), tmp_path, 30)
    with pytest.raises(StudyError, match=r"does not run what .*: torch is 2 there and 1 here"):
        follow(replace(here, command={**COMMAND, "torch": "2"}), lambda line: None)
    lines: list[str] = []
    following = threading.Thread(target=follow, args=(here, lines.append))
    following.start()
    assert coordinator.gather(1) == [socket.gethostname()]
    coordinator.close()
    following.join(timeout=30)
    assert lines[-1] == "the study has ended"


@pytest.mark.parametrize("cell", ["..", "../cell", "/cell", "a/b", ""])
def test_an_order_names_no_other_folder(cell: str) -> None:
    with pytest.raises(ValueError, match="cell"):
        command_of(json.dumps({"do": "run", "cell": cell, "attempt": "a"}).encode())


def test_a_follower_gives_up_a_leader_that_it_does_not_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NodeCoordinator, "LOST_SECONDS", 0.0)
    port = free_port(HERE)
    with pytest.raises(StudyError, match=f"has not reached {HERE}:{port} for 0 s"):
        follow(rendezvous_at(port, tmp_path, 0.1), lambda line: None)


@pytest.mark.parametrize(
    ("rendezvous", "sentence"),
    [
        (None, "several nodes need torchrun.rendezvous=HOST:PORT"),
        ("host", "torchrun.rendezvous=host is not HOST:PORT"),
        ("host:port", "torchrun.rendezvous=host:port is not HOST:PORT"),
        ("localhost:1", "is 127.0.0.1 on .*, which no other machine reaches"),
        ("no.such.host.invalid:1", "cannot resolve no.such.host.invalid"),
    ],
)
def test_a_rendezvous_that_is_none_is_refused(rendezvous: str | None, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        split_address(rendezvous)


def test_a_machine_knows_its_own_addresses() -> None:
    assert split_address("10.1.2.3:29500") == ("10.1.2.3", 29500)
    assert is_mine(HERE)
    assert not is_mine("192.0.2.1")


def test_a_heartbeat_and_a_command_come_back_from_their_json() -> None:
    ended = GroupExit(exits=[ProcessExit(rank=1, code=-9, host="b")], sentence="it died")
    heartbeat = NodeHeartbeat(host="b", command=COMMAND, count=7, attempt="a", ended=ended)
    assert heartbeat_of(pack(heartbeat)) == heartbeat
    command = NodeCommand(do=NodeAction.RUN, cell="f", attempt="a", node=1, port=2)
    assert command_of(pack(command)) == command
    with pytest.raises(ValueError, match="fly"):
        command_of(b'{"do": "fly"}')
