"""Ways of softmax attention that PyTorch has on a GPU: its backends, and FlashAttention from packages of their own."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn.attention import (
    SDPBackend,
    activate_flash_attention_impl,
    list_flash_attention_impls,
    restore_flash_attention_impl,
    sdpa_kernel,
)

from lina_lab.model import Attention

BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
Surrounding = Callable[[], AbstractContextManager[Any]]
"""What must be switched on while a form computes."""


@contextmanager
def flash_attention(name: str) -> Iterator[None]:
    """PyTorch's attention by a FlashAttention of another package.

    Raises:
        ImportError: it is not installed.
        RuntimeError: it does not take this device.
    """
    activate_flash_attention_impl(name)
    try:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            yield
    finally:
        restore_flash_attention_impl()


def ways_of_softmax() -> dict[str, Surrounding]:
    """Softmax attention by one backend of PyTorch each, and by each FlashAttention that it knows."""
    backends = {name: partial(sdpa_kernel, backend) for name, backend in BACKENDS.items()}
    return backends | {name: partial(flash_attention, name) for name in list_flash_attention_impls()}


def runs(softmax: Attention, name: str, way: Surrounding) -> bool:
    """Whether a way of softmax attention is installed and takes the module's heads; says why not."""
    x = softmax.qkv.weight.new_zeros(1, 64, softmax.qkv.in_features)
    try:
        with torch.no_grad(), way():
            softmax(x)
    except (ImportError, RuntimeError) as error:
        print(f"{name}: {str(error).splitlines()[0]}", flush=True)
        return False
    return True
