"""What the leading machine answers and refuses; a real network is in tests/system."""

import json
import socket
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import requests

from lina_lab.launch import nodes
from lina_lab.launch.contract import GroupExit, ProcessExit
from lina_lab.launch.follow import follow
from lina_lab.launch.nodes import NodeCommand, NodeCoordinator, NodeHeartbeat, RendezvousConfig, is_mine, split_address
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


def says(coordinator: NodeCoordinator, host: str = "b", **changes: object) -> NodeHeartbeat:
    return replace(NodeHeartbeat(host=host, command=COMMAND, join_token=coordinator.join_token), **changes)  # type: ignore[arg-type]


def test_machines_are_gathered_commanded_heard_and_dismissed(coordinator: NodeCoordinator, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"1 of 2 machines are there after 0 s \(those heard of: none\)"):
        coordinator.gather(1)
    assert coordinator.hear(says(coordinator)) == NodeCommand(do=NodeAction.WAIT)
    assert coordinator.hear(says(coordinator, "c")) == NodeCommand(do=NodeAction.WAIT)
    assert coordinator.gather(1) == ["b"]
    coordinator.start(tmp_path, "first", ["b"], 5)
    assert coordinator.hear(says(coordinator)) == NodeCommand(
        do=NodeAction.RUN, folder=str(tmp_path), attempt="first", node=1, port=5
    )
    assert coordinator.hear(says(coordinator, "c")) == NodeCommand(do=NodeAction.WAIT)
    assert coordinator.ended(["b"]) == {}
    ended = GroupExit(exits=[ProcessExit(rank=1, code=-9, host="b")], sentence="it died")
    coordinator.hear(says(coordinator, attempt="before", ended=ended))
    assert coordinator.ended(["b"]) == {}
    coordinator.hear(says(coordinator, attempt="first", ended=ended))
    assert coordinator.ended(["b"]) == {"b": ended}
    coordinator.abort_attempt()
    assert coordinator.hear(says(coordinator)).do is NodeAction.WAIT
    assert coordinator.lost(["b"]) == []


def test_one_that_runs_another_command_is_refused(coordinator: NodeCoordinator) -> None:
    here = socket.gethostname()
    sentence = f"b does not run what {here} runs: torch is 2 there and 1 here"
    answer = coordinator.hear(says(coordinator, command={"study.name": "tiny", "torch": "2"}))
    assert answer == NodeCommand(do=NodeAction.LEAVE, sentence=sentence)
    answer = coordinator.hear(says(coordinator, join_token="guessed"))
    assert answer.sentence.startswith(f"b does not see the folder of runs that {here} writes to")
    with pytest.raises(StudyError, match="b does not see the folder of runs"):
        coordinator.gather(1)
    assert coordinator.hear(says(coordinator)).do is NodeAction.WAIT
    assert coordinator.gather(1) == ["b"]


def test_one_that_falls_silent_is_lost(coordinator: NodeCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator.hear(says(coordinator))
    monkeypatch.setattr(NodeCoordinator, "LOST_SECONDS", -1.0)
    assert coordinator.lost(["b"]) == ["b"]


def test_a_port_that_is_taken_is_refused(coordinator: NodeCoordinator, tmp_path: Path) -> None:
    port = coordinator._server.server_address[1]
    with pytest.raises(StudyError, match=f"cannot listen at {HERE}:{port}"):
        NodeCoordinator(rendezvous_at(int(port), tmp_path, 1), lambda line: None)


def test_what_is_no_heartbeat_is_refused(coordinator: NodeCoordinator) -> None:
    url = f"http://{HERE}:{coordinator._server.server_address[1]}/"
    for body in ("{}", "no json", '{"host": 1}'):
        assert requests.post(url, data=body, timeout=5).status_code == 400
    assert requests.post(url, json=asdict(says(coordinator)), timeout=5).json()["do"] == "wait"


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
    heartbeat = NodeHeartbeat(host="b", command=COMMAND, join_token="t", attempt="a", ended=ended)
    assert NodeHeartbeat.from_dict(json.loads(json.dumps(asdict(heartbeat)))) == heartbeat
    command = NodeCommand(do=NodeAction.RUN, folder="f", attempt="a", node=1, port=2)
    assert NodeCommand.from_dict(json.loads(json.dumps(asdict(command)))) == command
    with pytest.raises(ValueError, match="fly"):
        NodeCommand.from_dict({"do": "fly"})
