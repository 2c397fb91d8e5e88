"""Pretrained networks: whether the hub has them, the device of a process that only applies them, hashes of weights."""

import hashlib
import os
import re
from pathlib import Path

import torch
from torch import nn

from lina_lab.util.errors import first_line

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
"""A model of the hub: NAME or OWNER/NAME."""
HUB_SECONDS = 5.0
"""Seconds to wait for the hub's first answer."""


def local_device() -> torch.device:
    """This process' GPU, by torchrun's LOCAL_RANK, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def weights_sha256(network: nn.Module) -> str:
    """The SHA-256 of a network's weights, in the order of their names, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def hub_options(name: str, shown: str) -> dict[str, bool]:
    """Arguments for `from_pretrained` of diffusers or transformers, so that nobody waits for a hub that is away.

    The libraries try each file six times, for half a minute, and then say that the file is not there.

    Args:
        name: a folder, or a model of the hub.
        shown: the name in messages, such as vae=NAME.

    Raises:
        ValueError: it is not there, and the hub cannot be reached.
    """
    if Path(name).is_dir():
        return {}
    if HUB_NAME.fullmatch(name) is None:
        raise ValueError(f"{shown} is not there: no folder has this name, and it is none of the hub")
    import huggingface_hub as hub

    if not hub.constants.HF_HUB_OFFLINE:
        try:
            hub.get_session().head(hub.constants.ENDPOINT, timeout=HUB_SECONDS)
            return {}
        except Exception as error:
            # Its client's classes of errors changed with the versions of the library.
            reason = f"{hub.constants.ENDPOINT} cannot be reached ({first_line(error)})"
    else:
        reason = "HF_HUB_OFFLINE=1 keeps the hub away"
    try:
        hub.snapshot_download(name, local_files_only=True)
    except Exception as error:
        how = f"give a folder, or run `hf download {name}` where there is a network"
        raise ValueError(f"{shown} is no folder here and not in the hub's cache, and {reason}: {how}") from error
    return {"local_files_only": True}
