"""Hashes of networks' weights, and the errors of the libraries that load pretrained ones."""

import hashlib

import torch
from torch import nn


def weights_sha256(network: nn.Module) -> str:
    """The SHA-256 of a network's weights, in the order of their names, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def first_line(error: Exception) -> str:
    """The first line of a library's message, which may be a page long."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
