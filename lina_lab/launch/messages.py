"""What the machines of a group tell each other (`nodes.py`, `follow.py`): checked types, signed in both directions.

The key lies in the study's folder, readable by its owner alone: who has it sees the same folder of runs as the same
user, and strangers at either end of the connection are neither heard nor obeyed. Not torchrun's own rendezvous
(`rdzv_backend=c10d`, torch 2.14): its store takes writes from whoever reaches the port, and unpickles them.
"""

import hashlib
import hmac
import json
import os
import secrets
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from lina_lab.launch.contract import GroupExit
from lina_lab.records.status import NodeAction
from lina_lab.util.files import atomic

KEY_FILE = "hosts.json"
SIGNATURE = "Lina-Signature"
"""The HTTP header that holds it."""
MAX_BYTES = 2**16
"""Size of the longest message."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,254}$")]
Text = Annotated[str, Field(max_length=4096)]
Port = Annotated[int, Field(ge=0, lt=2**16)]
MESSAGE = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, kw_only=True, config=MESSAGE)
class NodeHeartbeat:
    """What a machine says of itself."""

    host: Name
    command: Annotated[dict[Text, Text], Field(max_length=64)]
    """What its command line asks for, and its code (`select.agreement_digest`): the same on all machines."""
    session: Name = field(default_factory=lambda: secrets.token_hex(16))
    """Of one process on that machine, and of no other."""
    count: Annotated[int, Field(ge=0)] = 0
    """Grows with each heartbeat of a session, so that none is heard twice."""
    attempt: Name | None = None
    """The attempt that it works on, or has ended."""
    ended: GroupExit | None = None
    """How its part of the attempt ended; None: it has not."""


@dataclass(frozen=True, kw_only=True, config=MESSAGE)
class NodeCommand:
    """What a machine is to do."""

    do: NodeAction
    sentence: Text = ""
    """The reason to end or to leave, for people."""
    cell: Name | None = None
    """For `RUN`: the cell's folder in the study's; likewise the next three."""
    attempt: Name | None = None
    node: Port = 0
    port: Port = 0


def pack(message: NodeHeartbeat | NodeCommand) -> bytes:
    """The message as JSON."""
    return json.dumps(asdict(message)).encode()


def heartbeat_of(body: bytes) -> NodeHeartbeat:
    """The heartbeat from what `pack` made.

    Raises:
        ValueError: the body is not a heartbeat.
    """
    return TypeAdapter(NodeHeartbeat).validate_json(body)


def command_of(body: bytes) -> NodeCommand:
    """The command from what `pack` made.

    Raises:
        ValueError: the body is not a command.
    """
    return TypeAdapter(NodeCommand).validate_json(body)


def signature(key: str, body: bytes, answers: str = "") -> str:
    """The HMAC-SHA256 of a message.

    Args:
        key: of the study's folder.
        body: the message.
        answers: signature of the heartbeat that a command answers: it is good for no other one.
    """
    return hmac.new(key.encode(), f"{answers}\n".encode() + body, hashlib.sha256).hexdigest()


def is_signed(key: str, signed: str, body: bytes, answers: str = "") -> bool:
    """Whether a message is signed with a key; no message is without one."""
    return bool(key) and hmac.compare_digest(signature(key, body, answers).encode(), signed.encode())


def write_key(folder: Path) -> str:
    """Make a key, and leave it in a study's folder for its owner alone to read."""
    folder.mkdir(parents=True, exist_ok=True)
    key = secrets.token_hex(32)
    with atomic(folder / KEY_FILE) as draft:
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({"key": key}, file)
    return key


def read_key(folder: Path) -> str:
    """The key that the leader left; empty where this machine does not see it."""
    try:
        return str(json.loads((folder / KEY_FILE).read_text())["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
