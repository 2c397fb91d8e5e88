"""Pretrained networks: the device of a process that only applies them, and hashes of weights."""

import hashlib
import os

import torch
from torch import nn


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
