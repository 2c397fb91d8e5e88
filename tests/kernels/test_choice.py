"""Where the kernels compute and where the eager form does."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lina_lab import kernels
from lina_lab.config import TrialConfig
from lina_lab.kernels.launch import chunks
from lina_lab.training.trial import run_trial
from lina_lab.util.code_versions import code_versions
from tests.kernels.conftest import DEVICE

QKV = torch.randn(3, 2, 2, 5, 16, device=DEVICE)
X, KERNEL = torch.randn(2, 5, 8, device=DEVICE), torch.randn(8, 1, 3, 3, device=DEVICE)


def test_a_cpu_has_the_eager_form() -> None:
    assert not kernels.takes_attention(QKV.cpu(), "relu")
    assert not kernels.takes_convolution(X.cpu(), X.cpu(), KERNEL.cpu(), 5)


@pytest.mark.parametrize(
    ("change", "taken"),
    {
        "float32": (lambda x: x, True),
        "bfloat16": (lambda x: x.bfloat16(), True),
        "float16": (lambda x: x.half(), True),
        "float64": (lambda x: x.double(), False),
        "no channels": (lambda x: x[..., :0], False),
        "no samples": (lambda x: x[:, :0], False),
        "every other channel": (lambda x: x[..., ::2], False),
        "channels before tokens": (lambda x: x.mT, False),
        "128 channels": (lambda x: x.new_empty(3, 1, 1, 4, 128), True),
        "129 channels": (lambda x: x.new_empty(3, 1, 1, 4, 129), False),
        "offsets of more than 32 bits": (lambda x: x.new_empty(1).expand(3, 1, 2**20, 2**10, 16), False),
    }.values(),
)
def test_attention_is_computed_by_kernels_where_they_can(
    change: Callable[[Tensor], Tensor], taken: bool, chosen: None
) -> None:
    assert kernels.takes_attention(change(QKV), "relu") is taken


def test_somebody_else_s_feature_map_has_the_eager_form(chosen: None) -> None:
    assert not kernels.takes_attention(QKV, None)


def test_the_convolution_is_computed_by_kernels_where_they_can(chosen: None) -> None:
    assert kernels.takes_convolution(X, X, KERNEL, 5)
    assert kernels.takes_convolution(X.bfloat16(), X, KERNEL, 5)
    assert not kernels.takes_convolution(X, X, KERNEL, 6)
    assert not kernels.takes_convolution(X.double(), X.double(), KERNEL.double(), 5)
    assert not kernels.takes_convolution(X, X[..., ::2], KERNEL, 5)
    assert not kernels.takes_convolution(X, X, KERNEL[..., :2, :2].contiguous(), 5)
    assert not kernels.takes_convolution(X, X, KERNEL.mT, 5)


def test_nobody_gets_kernels_without_asking(chosen: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LINA_KERNELS")
    assert not kernels.takes_attention(QKV, "relu")
    assert not kernels.takes_convolution(X, X, KERNEL, 5)


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a GPU")
def test_a_trial_that_is_to_have_kernels_and_cannot_is_refused(
    tiny: Callable[..., TrialConfig], tmp_path: Path, wanted: None
) -> None:
    with pytest.raises(ValueError, match=r"LINA_KERNELS=1 needs an NVIDIA GPU of compute capability 8\.0 or newer"):
        run_trial(tiny(), tmp_path)


def test_cells_with_kernels_are_of_other_code(wanted: None) -> None:
    """So a worker without them does not mix its cells among those of a study with them."""
    assert code_versions.__wrapped__()["LINA_KERNELS"] == "1"


def test_without_triton_there_is_the_eager_form(chosen: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lina_lab.kernels.find_spec", lambda name: None)
    assert not kernels.takes_attention(QKV, "relu")


@pytest.mark.parametrize(
    ("capability", "memory", "taken"), [((9, 0), 227, True), ((7, 5), 227, False), ((8, 6), 99, False)]
)
def test_a_gpu_must_be_new_and_have_the_memory(
    capability: tuple[int, int], memory: int, taken: bool, monkeypatch: pytest.MonkeyPatch, wanted: None
) -> None:
    """In float32 with 64 channels, kernels need 100 KiB."""

    class Properties:
        shared_memory_per_block_optin = memory * 1024

    monkeypatch.setattr("torch.cuda.get_device_capability", lambda index: capability)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: Properties)
    monkeypatch.setattr("torch.version.hip", None)
    kernels._memory_of_gpu.cache_clear()
    assert (kernels.shared_memory(torch.float32, 64) <= kernels._memory_of("cuda", 0)) is taken
    kernels._memory_of_gpu.cache_clear()


def test_chunks_cover_all_tokens_once() -> None:
    for tokens in (1, 31, 32, 33, 320, 5120, 16384):
        for rows in (1, 3, 16, 768):
            count, blocks = chunks(tokens, 32, rows)
            assert (count - 1) * blocks * 32 < tokens <= count * blocks * 32
            assert count == 1 or count * rows <= 128


@pytest.mark.system
def test_kernels_compile_for_an_h100(tmp_path: Path) -> None:
    """Without a GPU: no kernel spills registers, and none takes more shared memory than it was said to."""
    from tests.kernels.aot import compiled

    found = compiled(tmp_path)
    assert {name for name, *_ in found} == {
        *("summarize", "apply", "pull_queries", "pull_keys", "convolve", "pull_kernel")
    }
    limits = {"*bf16": kernels.shared_memory(torch.bfloat16, 96), "*fp32": kernels.shared_memory(torch.float32, 64)}
    for name, dtype, shared, spilled in found:
        assert spilled == 0, name
        assert shared <= (limits[dtype] if "conv" not in name and name != "pull_kernel" else kernels.CONVOLUTION_MEMORY)
