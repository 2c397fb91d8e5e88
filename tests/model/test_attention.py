"""Properties of attention, over the registries."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor

from lina_lab.config import AttentionConfig, DataConfig
from lina_lab.data import DATA
from lina_lab.model import Attention
from lina_lab.model.cores import EPSILON, FEATURE_MAPS, LINEAR_CORES, mean_product, mediator, softmax
from lina_lab.model.gates import GATES, DataGate
from lina_lab.model.locality import CONVOLUTIONS, Geometry
from lina_lab.registry import Registry

GRID, CONDITION = (3, 4), 4
TOKENS = CONDITION + GRID[0] * GRID[1]


def choices(field: str) -> tuple[str, ...]:
    return get_args(get_type_hints(AttentionConfig)[field])


def valid_attentions() -> list[AttentionConfig]:
    """Every core with every convolution and gate that the configuration allows, and every feature map."""
    found = []
    for kind, normalization, conv, gate in itertools.product(
        *(choices(field) for field in ("kind", "normalization", "conv", "gate"))
    ):
        try:
            found.append(
                AttentionConfig(
                    kind=kind,  # type: ignore[arg-type]
                    normalization=normalization,  # type: ignore[arg-type]
                    conv=conv,  # type: ignore[arg-type]
                    gate=gate,  # type: ignore[arg-type]
                    conv_kernel=3,
                    mediators=6,
                )
            )
        except ValueError:
            continue
    maps = [
        AttentionConfig(feature_map=name, normalization=normalization, conv="none", gate="none")  # type: ignore[arg-type]
        for name in choices("feature_map")
        for normalization in choices("normalization")
        if name != "relu"
    ]
    return found + maps


def name_of(config: AttentionConfig) -> str:
    return f"{config.kind}-{config.normalization}-{config.feature_map}-{config.conv}-{config.gate}"


every_attention = pytest.mark.parametrize("config", valid_attentions(), ids=name_of)


def naive_division(q: Tensor, k: Tensor, v: Tensor, norm: Tensor | None = None) -> Tensor:
    norm = k if norm is None else norm
    total = (q @ norm.mT).sum(-1, keepdim=True)
    return (q @ k.mT / (total + EPSILON * k.shape[-2])) @ v


def naive_subtraction(q: Tensor, k: Tensor, v: Tensor, norm: Tensor | None = None) -> Tensor:
    tokens, scale = k.shape[-2], q.shape[-1] ** -0.5
    total = scale * (q @ (k if norm is None else norm).mT).sum(-1, keepdim=True) / tokens
    return (scale * q @ k.mT / tokens + (1 - total) / tokens) @ v


def naive_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def naive_mediator(q: Tensor, k: Tensor, v: Tensor, mediators: int = 6) -> Tensor:
    tokens = q.shape[-2]
    edges = [(i * tokens // mediators, -(-(i + 1) * tokens // mediators)) for i in range(mediators)]
    m = torch.stack([q[..., start:stop, :].mean(-2) for start, stop in edges], dim=-2)
    return naive_softmax(q, m, naive_softmax(m, k, v))


def linear(name: str) -> Callable[..., Tensor]:
    return lambda q, k, v: LINEAR_CORES[name](q, k, k, v, mean_product)


CORES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "division": (linear("division"), naive_division),
    "subtraction": (linear("subtraction"), naive_subtraction),
    "softmax": (softmax, naive_softmax),
    "mediator": (partial(mediator, mediators=6), naive_mediator),
}
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 4e-2}
"""The one table: largest error allowed, relative to the largest value."""
each_core = pytest.mark.parametrize(("core", "naive"), CORES.values(), ids=CORES)


def draw(generator: torch.Generator, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    shape = (2, 3, 37, 5)
    q, k, v = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(3))
    # Away from rows of zeros, where division's guard, and nothing else, decides.
    return [(q.relu() + 0.1).requires_grad_(), (k.relu() + 0.1).requires_grad_(), v.requires_grad_()]


@pytest.mark.parametrize(
    ("field", "registry"),
    [
        ("normalization", LINEAR_CORES),
        ("feature_map", FEATURE_MAPS),
        ("conv", CONVOLUTIONS),
        ("gate", GATES),
    ],
)
def test_the_configuration_allows_what_is_registered(field: str, registry: Registry[object]) -> None:
    assert set(get_args(get_type_hints(AttentionConfig)[field])) - {"none"} == set(registry)


def test_the_configuration_allows_the_data_that_is_registered() -> None:
    assert set(get_args(get_type_hints(DataConfig)["name"])) == set(DATA)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="gate=kv is registered already"):
        GATES.register("kv")(GATES["kv"])


@each_core
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_core_equals_its_naive_twin(
    core: Callable[..., Tensor], naive: Callable[..., Tensor], dtype: torch.dtype, generator: torch.Generator
) -> None:
    """Outputs and the gradients of each input, the normaliser's path through the keys included.

    The twin computes in float64 from the same numbers.
    """
    inputs = draw(generator, dtype)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    found, wanted = core(*inputs), naive(*exact)
    assert found.dtype == dtype
    upstream = torch.randn(found.shape, generator=generator, dtype=dtype)
    pairs = zip(
        ["o", "dq", "dk", "dv"],
        [found, *torch.autograd.grad(found, inputs, upstream)],
        [wanted, *torch.autograd.grad(wanted, exact, upstream.double())],
        strict=True,
    )
    for name, ours, theirs in pairs:
        error = (ours.double() - theirs).abs().max() / theirs.abs().max()
        assert error <= TOLERANCES[dtype], name


@pytest.mark.parametrize(
    ("name", "naive"),
    [("division", naive_division), ("subtraction", naive_subtraction)],
    ids=["division", "subtraction"],
)
def test_the_normaliser_may_have_keys_of_its_own(
    name: str, naive: Callable[..., Tensor], generator: torch.Generator
) -> None:
    q, k, v = draw(generator)
    norm = torch.rand(k.shape, generator=generator, dtype=k.dtype)
    assert torch.allclose(LINEAR_CORES[name](q, k, norm, v, mean_product), naive(q, k, v, norm))


@each_core
def test_rows_of_weights_sum_to_one(
    core: Callable[..., Tensor], naive: Callable[..., Tensor], generator: torch.Generator
) -> None:
    """Values of one give outputs of one: exactly, or but for division's guard against zero."""
    q, k, _ = draw(generator)
    out = core(q, k, torch.ones_like(k))
    assert torch.allclose(out, torch.ones_like(out), atol=1e-4)


@every_attention
def test_shape_and_gradients(config: AttentionConfig, generator: torch.Generator) -> None:
    module = Attention(8, 2, config, GRID, CONDITION)
    x = torch.randn(2, TOKENS, 8, generator=generator)
    out = module(x)
    assert out.shape == x.shape
    (out * torch.randn(out.shape, generator=generator)).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    "config",
    # The output gate has no such state: its formula has a test of its own.
    [config for config in valid_attentions() if config.gate != "output"],
    ids=name_of,
)
def test_parts_at_rest_change_nothing(config: AttentionConfig, generator: torch.Generator) -> None:
    """A gate at one and a convolution of zeros equal none."""
    module, plain = Attention(8, 2, config, GRID, CONDITION), Attention(8, 2, config.plain(), GRID, CONDITION)
    plain.load_state_dict({name: value for name, value in module.state_dict().items() if name in plain.state_dict()})
    if module.conv is not None:
        for parameter in module.conv.parameters():
            torch.nn.init.zeros_(parameter)
    x = torch.randn(2, TOKENS, 8, generator=generator)
    if isinstance(module.gate, DataGate):
        for gate in (module.gate.key_gate, module.gate.value_gate):
            torch.nn.init.constant_(gate.bias, 1e4)
    assert torch.allclose(module(x), plain(x), atol=1e-6)


@every_attention
def test_order_of_tokens_matters_only_to_convolution_and_gate(
    config: AttentionConfig, generator: torch.Generator
) -> None:
    module = Attention(8, 2, config, GRID, CONDITION).double()
    if config.tied_to_grid:
        for parameter in module.gate.parameters():
            torch.nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
    x = torch.randn(2, TOKENS, 8, generator=generator, dtype=torch.float64)
    order = torch.randperm(TOKENS, generator=generator)
    equal = torch.allclose(module(x[:, order]), module(x)[:, order], atol=1e-5)
    ordered = config.tied_to_grid or config.conv != "none" or config.kind == "mediator"
    assert equal == (not ordered)


@every_attention
@pytest.mark.parametrize("fill", [0.0, -3.0, 1e4], ids=["zero", "negative", "huge"])
def test_extreme_inputs_stay_finite(config: AttentionConfig, fill: float) -> None:
    module = Attention(8, 2, config, GRID, CONDITION)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(torch.full((1, TOKENS, 8), fill))
    assert out.isfinite().all()


def test_convolution_gives_condition_tokens_nothing(generator: torch.Generator) -> None:
    module = Attention(8, 2, AttentionConfig(conv_kernel=3), GRID, CONDITION)
    x = torch.randn(1, TOKENS, 8, generator=generator)
    before = module(x)
    torch.nn.init.normal_(module.conv.conv.weight, generator=generator)  # type: ignore[union-attr]
    after = module(x)
    assert torch.equal(before[:, :CONDITION], after[:, :CONDITION])
    assert not torch.allclose(before[:, CONDITION:], after[:, CONDITION:])


def test_gates_do_what_their_formulas_say(generator: torch.Generator) -> None:
    """Each against the formula, written out with loops over groups or heads."""
    x = torch.randn(2, TOKENS, 8, generator=generator)
    k, v = (torch.randn(2, 2, TOKENS, 4, generator=generator) for _ in range(2))
    memory = GATES["memory"](8, 2, TOKENS)
    torch.nn.init.normal_(memory.gate_logits, generator=generator)  # type: ignore[arg-type]
    share = memory.gate_logits.softmax(-1)  # type: ignore[operator]
    groups = [slice(4 * g, 4 * g + 4) for g in range(4)]
    wanted = sum(share[:, g, None, None] * (k[:, :, s].mT @ v[:, :, s]) / 4 for g, s in enumerate(groups))
    assert torch.allclose(memory.aggregate(k, v), wanted, atol=1e-6)
    data = GATES["kv_data"](8, 2, TOKENS)
    key, normaliser, value = data.keys_values(x, k, v)
    for head in range(2):
        weight = data.key_gate(x)[..., head].sigmoid() ** (1 / 16)  # type: ignore[operator]
        assert torch.allclose(key[:, head], k[:, head] * weight.unsqueeze(-1), atol=1e-6)
        weight = data.value_gate(x)[..., head].sigmoid() ** (1 / 16)  # type: ignore[operator]
        assert torch.allclose(value[:, head], v[:, head] * weight.unsqueeze(-1), atol=1e-6)
    assert normaliser is key
    output, o = GATES["output"](8, 2, TOKENS), torch.randn(2, TOKENS, 8, generator=generator)
    rms = o.square().mean(-1, keepdim=True).sqrt()
    assert torch.allclose(output.output(x, o), output.output_gate(x).sigmoid() * o / (rms + 1e-6))  # type: ignore[operator]


def test_dynamic_convolution_is_a_kernel_for_each_sample_and_channel(generator: torch.Generator) -> None:
    module = CONVOLUTIONS["dynamic"](Geometry(8, 2, 3, GRID, CONDITION))
    x, v = (torch.randn(2, 5, 8, generator=generator) for _ in range(2))
    kernels = module.residual(x.mean(1).unsqueeze(-1)).reshape(2, 8, 3)  # type: ignore[operator]
    found, padded = module(x, v), torch.nn.functional.pad(v, (0, 0, 1, 1))
    for t in range(5):
        wanted = sum(kernels[..., tap] * padded[:, t + tap] for tap in range(3))
        assert torch.allclose(found[:, t], wanted, atol=1e-6)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="dim=10 is not a multiple of num_heads=4"):
        Attention(10, 4, AttentionConfig())
