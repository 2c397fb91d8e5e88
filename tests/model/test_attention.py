"""Properties of attention, over the registries."""

import itertools
from collections.abc import Callable
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor

from lina_lab.config import AttentionConfig, DataConfig
from lina_lab.data import DATA
from lina_lab.model import Attention
from lina_lab.model.cores import EPSILON, FEATURE_MAPS, LINEAR_CORES, softmax
from lina_lab.model.gates import GATES
from lina_lab.model.locality import CONVOLUTIONS
from lina_lab.registry import Registry

GRID, CONDITION = (3, 5), 4
TOKENS = CONDITION + GRID[0] * GRID[1]


def valid_attentions() -> list[AttentionConfig]:
    """Every combination of the registries that the configuration allows."""
    found = []
    choices = {name: get_args(kind) for name, kind in get_type_hints(AttentionConfig).items() if get_args(kind)}
    choices = {name: values for name, values in choices.items() if name != "conv_kernel"}
    for values in itertools.product(*choices.values()):
        try:
            found.append(AttentionConfig(**dict(zip(choices, values, strict=True)), conv_kernel=3))
        except ValueError:
            continue
    return found


def name_of(config: AttentionConfig) -> str:
    return f"{config.kind}-{config.normalization}-{config.conv}-{config.gate}"


every_attention = pytest.mark.parametrize("config", valid_attentions(), ids=name_of)


def naive_division(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = q @ k.mT
    return (weights / (weights.sum(-1, keepdim=True) + EPSILON * k.shape[-2])) @ v


def naive_subtraction(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    tokens = k.shape[-2]
    weights = q @ k.mT / q.shape[-1] ** 0.5 / tokens
    return (weights + (1 - weights.sum(-1, keepdim=True)) / tokens) @ v


def naive_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


CORES: list[tuple[Callable[..., Tensor], Callable[..., Tensor]]] = [
    (LINEAR_CORES["division"], naive_division),
    (LINEAR_CORES["subtraction"], naive_subtraction),
    (softmax, naive_softmax),
]
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
each_core = pytest.mark.parametrize(("core", "naive"), CORES, ids=["division", "subtraction", "softmax"])


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
    """Outputs and the gradients of each input, the normaliser's path through the keys included."""
    inputs = draw(generator, dtype)
    found, wanted = core(*inputs), naive(*inputs)
    upstream = torch.randn(found.shape, generator=generator, dtype=dtype)
    pairs = zip(
        ["o", "dq", "dk", "dv"],
        [found, *torch.autograd.grad(found, inputs, upstream)],
        [wanted, *torch.autograd.grad(wanted, inputs, upstream)],
        strict=True,
    )
    for name, ours, theirs in pairs:
        assert torch.allclose(ours, theirs, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype]), name


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


@every_attention
def test_parts_at_rest_change_nothing(config: AttentionConfig, generator: torch.Generator) -> None:
    """A gate at one and a convolution of zeros equal none."""
    module, plain = Attention(8, 2, config, GRID, CONDITION), Attention(8, 2, config.plain(), GRID, CONDITION)
    plain.load_state_dict({name: value for name, value in module.state_dict().items() if name in plain.state_dict()})
    if module.conv is not None:
        for parameter in module.conv.parameters():
            torch.nn.init.zeros_(parameter)
    x = torch.randn(2, TOKENS, 8, generator=generator)
    assert torch.allclose(module(x), plain(x), atol=1e-6)


@every_attention
def test_order_of_tokens_matters_only_to_convolution_and_gate(
    config: AttentionConfig, generator: torch.Generator
) -> None:
    module = Attention(8, 2, config, GRID, CONDITION)
    if module.gate is not None:
        for parameter in module.gate.parameters():
            torch.nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
    x = torch.randn(2, TOKENS, 8, generator=generator)
    order = torch.randperm(TOKENS, generator=generator)
    equal = torch.allclose(module(x[:, order]), module(x)[:, order], atol=1e-5)
    assert equal == (config.conv == "none" and config.gate == "none")


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


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="dim=10 is not a multiple of num_heads=4"):
        Attention(10, 4, AttentionConfig())
