"""Linear attention of the kernels against its eager form in float64."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lina_lab.config import AttentionConfig
from lina_lab.kernels import FEATURE_MAPS as KERNEL_MAPS
from lina_lab.kernels.attention import backward, linear_attention
from lina_lab.model import Attention
from lina_lab.model.linear import plain_attention
from lina_lab.variants import FEATURE_MAPS, GATES, NORMALIZATIONS
from tests.kernels.conftest import DEVICE, largest_error

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 3e-3}
NAMES = ("o", "qkv", "key_value", "normalizer", "value")


def draw(generator: torch.Generator, channels: int, tokens: int, *, positive: bool) -> tuple[Tensor, Tensor]:
    """Queries, keys and values as a projection lays them out in memory, and the gradient of the outputs."""
    qkv = torch.randn(2, tokens, 3, 2, channels, generator=generator).permute(2, 0, 3, 1, 4)
    if positive:  # otherwise division's normalizer may be near zero, which leaves nothing to compare
        qkv[:2].abs_().add_(0.1)
    return qkv, torch.randn(2, 2, tokens, channels, generator=generator)


def both(
    qkv: Tensor, weights: list[Tensor | None], upstream: Tensor, feature_map: str, normalization: str
) -> list[tuple[str, Tensor, Tensor]]:
    """Outputs and gradients, ours and those of the eager form in float64 from the same numbers."""
    results = []
    for dtype, device in ((None, DEVICE), (torch.float64, "cpu")):
        x = qkv.detach().to(device, dtype or qkv.dtype).requires_grad_()
        gates = [None if w is None else w.detach().to(device, dtype or w.dtype).requires_grad_() for w in weights]
        if dtype is None:
            out = linear_attention(x, *gates, feature_map, normalization)[0].transpose(1, 2)
        else:
            out = plain_attention(x, FEATURE_MAPS[feature_map].load(), NORMALIZATIONS[normalization].load(), *gates)
        wanted = [x, *(w for w in gates if w is not None)]
        grads = torch.autograd.grad(out, wanted, upstream.to(out), allow_unused=True, materialize_grads=True)
        results.append([out, *grads])
    named = [NAMES[0], NAMES[1], *(n for n, w in zip(NAMES[2:], weights, strict=True) if w is not None)]
    return list(zip(named, *results, strict=True))


def assert_close(pairs: list[tuple[str, Tensor, Tensor]], tolerance: float) -> None:
    for name, ours, exact in pairs:
        if exact.any():
            assert largest_error(ours, exact) <= tolerance, name
        else:
            assert not ours.any(), name


def test_every_feature_map_of_the_registry_has_a_form_in_kernels() -> None:
    assert {entry.load().kernel for entry in FEATURE_MAPS.values()} == KERNEL_MAPS == set(FEATURE_MAPS)
    assert {entry.load().kernel for entry in NORMALIZATIONS.values()} == set(NORMALIZATIONS)


@pytest.mark.parametrize("channels", [16, 64, 96])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("feature_map", FEATURE_MAPS)
def test_kernels_equal_the_eager_form(
    feature_map: str, normalization: str, channels: int, generator: torch.Generator
) -> None:
    """Outputs and all gradients, with weights on keys, normalizer and values, over an odd number of tokens."""
    positive = normalization == "division" and feature_map in ("identity", "leaky_relu")
    qkv, upstream = draw(generator, channels, 37, positive=positive)
    weights: list[Tensor | None] = [torch.rand(2, 37, 1, generator=generator) + 0.5 for _ in range(3)]
    assert_close(both(qkv, weights, upstream, feature_map, normalization), TOLERANCES[torch.float32])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("channels", [24, 96])
def test_kernels_take_half_precision(
    channels: int, normalization: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    qkv, upstream = draw(generator, channels, 81, positive=False)
    pairs = both(qkv.to(dtype), [torch.rand(2, 81, 1) + 0.5, None, None], upstream.to(dtype), "elu", normalization)
    assert [ours.dtype for _, ours, _ in pairs] == [dtype, dtype, torch.float32]
    assert_close(pairs, TOLERANCES[dtype])


@pytest.mark.parametrize("tokens", [1, 16, 17])
@pytest.mark.parametrize("channels", [1, 128])
def test_any_number_of_tokens_and_any_width_up_to_128(channels: int, tokens: int, generator: torch.Generator) -> None:
    qkv, upstream = draw(generator, channels, tokens, positive=False)
    assert_close(both(qkv, [None] * 3, upstream, "softplus", "division"), TOLERANCES[torch.float32])


@pytest.mark.parametrize("present", list(itertools.product([False, True], repeat=3)), ids=str)
@pytest.mark.parametrize("shape", [(1, 19, 1), (2, 2, 19, 1), (2, 1, 1)], ids=["shared", "samples", "heads"])
def test_weights_may_be_there_or_not_and_be_shared(
    shape: tuple[int, ...], present: tuple[bool, ...], generator: torch.Generator
) -> None:
    qkv, upstream = draw(generator, 16, 19, positive=False)
    weights = [torch.rand(shape, generator=generator) + 0.5 if there else None for there in present]
    assert_close(both(qkv, weights, upstream, "relu", "subtraction"), TOLERANCES[torch.float32])


@pytest.mark.parametrize("programs", [1, 4, 8, 1000])
def test_sums_over_tokens_may_be_split_and_keep_their_bits(
    programs: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one program for each head to one for each block of tokens."""
    monkeypatch.setattr("lina_lab.kernels.attention.PROGRAMS", programs)
    qkv, upstream = draw(generator, 16, 150, positive=False)
    weights: list[Tensor | None] = [torch.rand(2, 150, 1, generator=generator) for _ in range(3)]
    first, second = (both(qkv, weights, upstream, "elu", "subtraction") for _ in range(2))
    assert_close(first, TOLERANCES[torch.float32])
    assert all(torch.equal(a, b) for (_, a, _), (_, b, _) in zip(first, second, strict=True))


class Called(TorchDispatchMode):
    """Names of the operators that are called below it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def small(gate: str, normalization: str) -> Attention:
    config = AttentionConfig(gate=gate, normalization=normalization, conv_kernel=3, feature_map="elu")
    return Attention(32, 2, config, (3, 5), 5)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("gate", GATES)
def test_a_module_computes_the_same_with_kernels(
    gate: str, normalization: str, chosen: None, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole module with its convolution: outputs, and the gradients of the input and of each parameter."""
    module = small(gate, normalization)
    for parameter in module.parameters():
        torch.nn.init.uniform_(parameter, -0.5, 0.5, generator=generator)
    for name, parameter in module.named_parameters():
        if "scale" in name:
            parameter.data.add_(1)
    inputs, upstream = (torch.randn(2, 20, 32, generator=generator) for _ in range(2))
    results, calls = [], []
    for dtype, device in ((torch.float32, DEVICE), (torch.float64, "cpu")):
        module.to(device, dtype).zero_grad()
        x = inputs.detach().clone().to(device, dtype).requires_grad_()
        with Called() as called:
            out = module(x)
        out.backward(upstream.to(out))
        calls.append(called.names)
        grads = {name: parameter.grad for name, parameter in module.named_parameters()}
        results.append({"o": out, "x": x.grad, **grads})
    names = {"lina_lab::linear_attention", "lina_lab::convolve"}
    assert names <= calls[0]
    assert not names & calls[1]
    for name, exact in results[1].items():
        assert exact is not None
        ours = results[0][name]
        assert ours is not None
        assert largest_error(ours, exact) <= 2e-5, name


def test_an_upstream_gradient_may_be_broadcast(generator: torch.Generator) -> None:
    qkv, _ = draw(generator, 16, 5, positive=False)
    assert_close(both(qkv, [None] * 3, torch.ones(1, 1, 1, 1).expand(2, 2, 5, 16), "elu", "division"), 1e-5)
    assert_close(both(qkv, [None] * 3, torch.ones(16, 5, 2, 2).permute(3, 2, 1, 0), "elu", "division"), 1e-5)


@pytest.mark.filterwarnings("ignore")  # of what PyTorch imports for it
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_operators_keep_the_rules_of_pytorch(normalization: str, generator: torch.Generator) -> None:
    """Schemas, fake results, and gradients under tracing with static and with dynamic shapes."""
    qkv, upstream = (x.to(DEVICE) for x in draw(generator, 16, 5, positive=False))
    weights = [torch.rand(2, 5, 1, generator=generator).to(DEVICE).requires_grad_() for _ in range(3)]
    names = "elu", normalization
    torch.library.opcheck(linear_attention, (qkv.clone().requires_grad_(), *weights, *names))
    _, summary = linear_attention(qkv, *weights, *names)
    plain = [w.detach() for w in weights]
    torch.library.opcheck(backward, (upstream.transpose(1, 2), qkv, summary.detach(), *plain, *names))


@pytest.mark.filterwarnings("ignore")  # torch.compile's own
def test_kernels_are_in_one_compiled_graph(chosen: None, generator: torch.Generator) -> None:
    module = small("kv", "division").to(DEVICE)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 20, 32, generator=generator).to(DEVICE)
    grads = []
    for form in (module, compiled):
        module.zero_grad()
        out = form(x)
        out.square().sum().backward()
        grads.append([out, *(parameter.grad for parameter in module.parameters())])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*grads, strict=True))


def test_second_derivatives_are_refused_in_one_sentence(generator: torch.Generator) -> None:
    qkv = draw(generator, 16, 5, positive=False)[0].to(DEVICE).requires_grad_()
    out, _ = linear_attention(qkv, None, None, None, "elu", "division")
    (grad,) = torch.autograd.grad(out.square().sum(), qkv, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives of attention need the eager form: unset LINA_KERNELS"):
        grad.square().sum().backward()
