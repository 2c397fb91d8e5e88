"""Linear attention and the depthwise convolution as kernels for a GPU, for those who ask for them.

They are not measured on a GPU yet, so they are used only where the environment has `LINA_KERNELS=1`. Then
`lina_lab.model` asks here, by device and shape, and computes its eager form otherwise: in float64, with another
package's feature map, with heads of more than 128 channels. They agree with the eager form but for rounding, and give
the same bits each time.
"""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from lina_lab.kernels.launch import WIDEST, shared_memory
from lina_lab.util.code_versions import kernels_wanted

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FEATURE_MAPS = frozenset({"relu", "elu", "identity", "exp", "leaky_relu", "softplus", "squared_relu"})
"""Those with a form in `lina_lab.kernels.maps`."""
LARGEST = 2**31
"""Offsets inside a sample are numbers of 32 bits."""
CONVOLUTION_MEMORY = 48 * 1024
"""Bytes of shared memory that the convolution does not exceed."""
OLDEST = (8, 0)
"""First generation of GPUs with tensor cores for bfloat16."""


def takes_attention(qkv_3BHTE: Tensor, feature_map: str | None) -> bool:
    """Whether the kernels compute linear attention of these numbers.

    Args:
        qkv_3BHTE: raw queries, keys and values.
        feature_map: name of the feature map here; None: it has none.
    """
    if qkv_3BHTE.device.type == "cpu" and not _interpreted():
        return False
    *_, heads, tokens, channels = qkv_3BHTE.shape
    return (
        feature_map in FEATURE_MAPS
        and channels <= WIDEST
        and _plain(qkv_3BHTE)
        and 3 * heads * channels * tokens < LARGEST
        and shared_memory(qkv_3BHTE.dtype, channels) <= _memory_of(qkv_3BHTE.device.type, qkv_3BHTE.device.index)
    )


def takes_convolution(base_BTD: Tensor, x_BTD: Tensor, kernel: Tensor, tokens: int) -> bool:
    """Whether the kernels add this convolution, of `tokens` tokens with those of the condition, to `base`."""
    if x_BTD.device.type == "cpu" and not _interpreted():
        return False
    return (
        x_BTD.shape[1] == tokens
        and len(x_BTD) < 2**16
        and kernel.shape[-1] % 2 == 1
        and type(kernel) in (Tensor, torch.nn.Parameter)
        and kernel.is_contiguous()
        and _plain(base_BTD)
        and _plain(x_BTD)
        and _memory_of(x_BTD.device.type, x_BTD.device.index) >= CONVOLUTION_MEMORY
    )


def missing() -> str | None:
    """What a machine lacks for kernels that are asked for, as a sentence; None: nothing, or nobody asks for them."""
    if not kernels_wanted() or _interpreted():
        return None
    if find_spec("triton") is None:
        return "LINA_KERNELS=1 needs the package triton, and it is not installed"
    if not torch.cuda.is_available() or not _memory_of("cuda", torch.cuda.current_device()):
        return f"LINA_KERNELS=1 needs an NVIDIA GPU of compute capability {OLDEST[0]}.{OLDEST[1]} or newer"
    return None


def _plain(x: Tensor) -> bool:
    """Whether a tensor is one that kernels read: not empty, in rows, of a known precision, on one device."""
    rows = x.stride(-1) == 1 and x.stride(-2) * x.shape[-2] < LARGEST
    return type(x) is Tensor and x.dtype in DTYPES and x.numel() > 0 and rows


def _interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on a CPU; only tests say so."""
    return False


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _memory_of(kind: str, index: int | None) -> int:
    """Shared memory that a program has on a device, in bytes; 0 where there are no kernels for it."""
    if not kernels_wanted() or find_spec("triton") is None:
        return 0
    from lina_lab.kernels import attention, convolution  # noqa: F401  # registers the operators

    return _memory_of_gpu(index) if kind == "cuda" else 2**20


@cache
def _memory_of_gpu(index: int | None) -> int:
    if torch.version.hip is not None or torch.cuda.get_device_capability(index) < OLDEST:
        return 0
    return int(torch.cuda.get_device_properties(index).shared_memory_per_block_optin)  # type: ignore[attr-defined]
