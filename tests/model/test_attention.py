"""Properties of attention, over the registries."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from lina_lab.config import AttentionConfig
from lina_lab.config.attention import PARTS
from lina_lab.model import Attention
from lina_lab.model.cores import mediator, softmax
from lina_lab.model.feature_maps import FeatureMap
from lina_lab.model.gates import DataGate
from lina_lab.model.linear import EPSILON, Weights, linear_attention
from lina_lab.variants import CONVOLUTIONS, FEATURE_MAPS, GATES, NORMALIZATIONS, Geometry

GRID, CONDITION = (3, 4), 4
TOKENS = CONDITION + GRID[0] * GRID[1]
GEOMETRY = Geometry(dim=8, heads=2, grid=GRID, condition_tokens=CONDITION, kernel=3)


def choices(field: str) -> tuple[str, ...]:
    return tuple(PARTS[field].builtin)


def valid_attentions() -> list[AttentionConfig]:
    """Every core with every convolution and gate that the configuration allows, and every other part."""
    found = []
    for kind, normalization, conv, gate in itertools.product(
        *(choices(field) for field in ("kind", "normalization", "conv", "gate"))
    ):
        if kind == "blocks" and "none" not in (conv, gate):
            continue  # both are as with linear
        try:
            found.append(
                AttentionConfig(
                    kind=kind,
                    normalization=normalization,
                    conv=conv,
                    gate=gate,
                    conv_kernel=3,
                    mediators=6,
                    blocks=6,
                )
            )
        except ValueError:
            continue
    maps = [
        AttentionConfig(feature_map=name, normalization=normalization, conv="none", gate="none")
        for name in choices("feature_map")
        for normalization in choices("normalization")
        if name != "relu"
    ]
    others = [
        AttentionConfig(kind=kind, conv="none", gate="none", mediators=6, blocks=6, **{field: name})
        for kind in choices("kind")
        for field in ("qk_norm", "head_norm")
        for name in choices(field)
        if name != PARTS[field].unused
    ]
    return found + maps + others


def name_of(config: AttentionConfig) -> str:
    return "-".join(getattr(config, field) for field in PARTS)


def known_to_the_authors(config: AttentionConfig) -> bool:
    return all(variant.official is not None for variant in config.variants)


every_attention = pytest.mark.parametrize("config", valid_attentions(), ids=name_of)


def naive_division(q: Tensor, k: Tensor, v: Tensor, norm: Tensor | None = None) -> Tensor:
    q, k = q + EPSILON, k + EPSILON
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


def linear(name: str, weights: Weights = Weights()) -> Callable[..., Tensor]:  # noqa: B008
    def core(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return linear_attention(
            torch.stack([q, k, v]), weights, FEATURE_MAPS["identity"].load(), NORMALIZATIONS[name].load()
        )

    return core


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


@each_core
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_core_equals_its_naive_twin(
    core: Callable[..., Tensor], naive: Callable[..., Tensor], dtype: torch.dtype, generator: torch.Generator
) -> None:
    """Outputs and the gradients of each input, the normalizer's path through the keys included.

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


TWINS = {"division": naive_division, "subtraction": naive_subtraction}


@pytest.mark.parametrize("normalization", TWINS)
@pytest.mark.parametrize("shape", [(1, 37, 1), (3, 37, 1), (2, 3, 37, 1)], ids=["shared", "heads", "samples"])
def test_weights_on_tokens_equal_their_naive_form(
    normalization: str, shape: tuple[int, ...], generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numerator, normalizer and values each have weights of their own, some negative: outputs and all gradients.

    Sample by sample in the backward pass.
    """
    monkeypatch.setattr("lina_lab.model.linear.CACHED", 1)
    inputs = draw(generator)
    weights = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]
    if normalization == "division":
        weights[1].data.abs_()  # a normalizer near zero would leave nothing to compare
    key, norm, value = weights
    q, k, v = inputs
    found = linear(normalization, Weights(key=key, normalizer=norm, value=value))(q, k, v)
    shift = EPSILON if normalization == "division" else 0.0
    wanted = TWINS[normalization](q, (k + shift) * key - shift, v * value, (k + shift) * norm)
    upstream = torch.randn(found.shape, generator=generator, dtype=found.dtype)
    ours, theirs = (torch.autograd.grad(o, [*inputs, *weights], upstream) for o in (found, wanted))
    for name, a, b in zip(["o", "q", "k", "v", "key", "norm", "value"], [found, *ours], [wanted, *theirs], strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10), name


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("feature_map", FEATURE_MAPS)
def test_backward_written_out_equals_autograd(
    feature_map: str, normalization: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form of eager mode against the one that is left to the compiler, over two parts of the batch."""
    monkeypatch.setattr("lina_lab.model.linear.CACHED", 2 * 3 * 37 * 5)
    qkv = torch.randn(3, 3, 3, 37, 5, generator=generator, dtype=torch.float64)
    qkv.view(-1)[::7] = 0  # where a derivative jumps
    weight = torch.rand(3, 37, 1, generator=generator, dtype=torch.float64).requires_grad_()
    gate = Weights(key=weight, normalizer=weight, value=weight)
    upstream = torch.randn(qkv.shape[1:], generator=generator, dtype=torch.float64)
    results = []
    for compiling in (False, True):
        monkeypatch.setattr("torch.compiler.is_compiling", lambda compiling=compiling: compiling)
        x = qkv.clone().requires_grad_()
        out = linear_attention(x, gate, FEATURE_MAPS[feature_map].load(), NORMALIZATIONS[normalization].load())
        results.append([out, *torch.autograd.grad(out, [x, weight], upstream)])
    assert torch.equal(x, qkv)
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).abs().max() <= 1e-9 * theirs.abs().max()


@pytest.mark.parametrize("feature_map", [entry.load() for entry in FEATURE_MAPS.values()], ids=FEATURE_MAPS)
@pytest.mark.parametrize("shift", [0.0, EPSILON])
def test_a_feature_map_knows_its_derivative(feature_map: FeatureMap, shift: float, generator: torch.Generator) -> None:
    x = (4 * torch.randn(200, generator=generator, dtype=torch.float64)).requires_grad_()
    y, grad = feature_map.value(x), torch.randn(200, generator=generator, dtype=torch.float64)
    (wanted,) = torch.autograd.grad(y, x, grad)
    found = feature_map.pull(grad.clone(), (y + shift).detach(), shift)
    assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-9)
    if feature_map.overwrite is not None:
        assert torch.equal(feature_map.overwrite(x.detach().clone()), y)


@pytest.mark.parametrize("feature_map", [entry.load() for entry in FEATURE_MAPS.values()], ids=FEATURE_MAPS)
@pytest.mark.parametrize("shift", [0.0, EPSILON])
def test_no_feature_map_cancels_in_bfloat16(feature_map: FeatureMap, shift: float) -> None:
    """Values and derivatives at -10..10 are within 1% of those in float64: `elu(x) + 1` was 58% off at -6, 0 at -8."""
    x = torch.linspace(-10, 10, 2001).bfloat16()
    exact = x.double().requires_grad_()
    wanted = feature_map.value(exact)
    (slope,) = torch.autograd.grad(wanted.sum(), exact)
    found = feature_map.value(x.clone())
    pulled = feature_map.pull(torch.ones_like(x), found + shift, shift)
    assert torch.allclose(found.double(), wanted.detach(), rtol=0.01, atol=0)
    assert torch.allclose(pulled.double(), slope, rtol=0.01, atol=1e-6)


def test_elu_in_float32_is_elu_plus_one() -> None:
    """But for rounding, and also where exp alone would overflow."""
    x = torch.cat([torch.linspace(-20, 20, 4001), torch.tensor([-1e4, 1e4])]).requires_grad_()
    found, wanted = FEATURE_MAPS["elu"].load().value(x), torch.nn.functional.elu(x) + 1
    assert torch.allclose(found, wanted, rtol=0, atol=1e-6)
    slopes = [torch.autograd.grad(y.sum(), x)[0] for y in (found, wanted)]
    assert torch.allclose(*slopes, rtol=0, atol=1e-6)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("feature_map", ["elu", "exp", "softplus"])
@pytest.mark.parametrize("center", [-10.0, -8.0, -6.0, -4.0, -2.0])
def test_maps_that_are_positive_below_zero_are_as_exact_in_bfloat16(
    feature_map: str, normalization: str, center: float, generator: torch.Generator
) -> None:
    """Outputs and gradients of attention, so that a comparison of feature maps is one of maps and not of rounding."""
    queries_keys = center + 0.5 * torch.randn(2, 2, 2, 64, 16, generator=generator)
    values, upstream = torch.randn(2, 2, 2, 64, 16, generator=generator).bfloat16()
    qkv = torch.cat([queries_keys.bfloat16(), values.unsqueeze(0)])
    results = []
    for dtype in (torch.bfloat16, torch.float64):
        x = qkv.to(dtype).requires_grad_()
        out = linear_attention(x, Weights(), FEATURE_MAPS[feature_map].load(), NORMALIZATIONS[normalization].load())
        results.append([out, *torch.autograd.grad(out, x, upstream.to(dtype))[0]])
    for name, ours, theirs in zip(["o", "dq", "dk", "dv"], *results, strict=True):
        assert (ours.double() - theirs).norm() <= 0.02 * theirs.norm(), name


def test_gates_of_the_data_do_not_cancel_in_bfloat16() -> None:
    """Weights and their slopes at logits of -10..10 are within 1% of those in float64."""
    gate = GATES["kv_data"].load()(GEOMETRY)
    logits = torch.linspace(-10, 10, 2001).bfloat16().reshape(1, -1, 1)
    results = []
    for x in (logits.clone().requires_grad_(), logits.double().requires_grad_()):
        exact = x.sigmoid() ** (1 / DataGate.ROOT)
        weights = gate._weight(x).flatten() if x.dtype == torch.bfloat16 else exact.flatten()  # type: ignore[operator]
        results.append([weights.double(), torch.autograd.grad(weights.sum(), x)[0].flatten().double()])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=0.01, atol=0)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_sums_over_tokens_do_not_stall_in_bfloat16(normalization: str) -> None:
    """A sum kept in bfloat16 stops growing at 256 ones; over 4,096 tokens the normalizer must still be right."""
    q, k = torch.full((1, 1, 4096, 4), 0.5), torch.ones(1, 1, 4096, 4)
    v = torch.arange(4096.0).remainder(2).reshape(1, 1, -1, 1).expand(1, 1, 4096, 4)
    out = linear(normalization)(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert torch.allclose(out.float(), torch.full_like(q, 0.5), rtol=1e-2)


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
    for gate in module.gate.children():
        torch.nn.init.constant_(gate.bias, 1e4)  # sigmoids of one
    assert torch.allclose(module(x), plain(x), atol=1e-6)


@every_attention
def test_order_of_tokens_matters_only_to_convolution_and_gate(
    config: AttentionConfig, generator: torch.Generator
) -> None:
    module = Attention(8, 2, config, GRID, CONDITION).double()
    if config.tied_to_grid:
        for parameter in (*module.gate.parameters(), *module.core.parameters()):
            torch.nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
    x = torch.randn(2, TOKENS, 8, generator=generator, dtype=torch.float64)
    order = torch.randperm(TOKENS, generator=generator)
    equal = torch.allclose(module(x[:, order]), module(x)[:, order], atol=1e-5)
    ordered = config.tied_to_grid or config.conv != "none" or not PARTS["kind"][config.kind].orderless
    assert equal == (not ordered)


@every_attention
@pytest.mark.parametrize("fill", [0.0, -3.0, 1e4], ids=["zero", "negative", "huge"])
def test_extreme_inputs_stay_finite(config: AttentionConfig, fill: float) -> None:
    module = Attention(8, 2, config, GRID, CONDITION)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(torch.full((1, TOKENS, 8), fill))
    assert out.isfinite().all()


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("grid", [(3, 4), (1, 9), (35, 3)], ids=str)
def test_gradients_of_the_convolution_on_a_cpu_are_those_of_pytorch(
    kernel: int, grid: tuple[int, int], generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over several parts of the batch, the last of them smaller, and several stripes of the grid."""
    monkeypatch.setattr("lina_lab.model.locality._DepthwiseOnCpu.CHANNELS", 16)
    module = CONVOLUTIONS["depthwise"].load()(replace(GEOMETRY, grid=grid, condition_tokens=2, kernel=kernel)).double()
    x = torch.randn(5, 2 + grid[0] * grid[1], 8, generator=generator, dtype=torch.float64, requires_grad=True)
    upstream, results = torch.randn(x.shape, generator=generator, dtype=torch.float64), []
    for compiling in (False, True):
        monkeypatch.setattr("torch.compiler.is_compiling", lambda compiling=compiling: compiling)
        out = module(x, x)
        results.append([out, *torch.autograd.grad(out, [x, *module.parameters()], upstream)])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


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
    memory = GATES["memory"].load()(GEOMETRY)
    torch.nn.init.normal_(memory.gate_logits, generator=generator)
    share = memory.gate_logits.softmax(-1)  # type: ignore[operator]
    groups = [slice(4 * g, 4 * g + 4) for g in range(4)]
    wanted = sum(share[:, g, None, None] * (k[:, :, s].mT @ v[:, :, s]) / 4 for g, s in enumerate(groups))
    found = (k * memory.weights(x).key).mT @ v / TOKENS
    assert torch.allclose(found, wanted, atol=1e-6)
    assert memory.weights(x).normalizer is None
    data = GATES["kv_data"].load()(GEOMETRY)
    weights = data.weights(x)
    for head in range(2):
        weight = data.key_gate(x)[..., head].sigmoid() ** (1 / 16)  # type: ignore[operator]
        assert torch.allclose(weights.key[:, head, :, 0], weight, atol=1e-6)  # type: ignore[index]
        weight = data.value_gate(x)[..., head].sigmoid() ** (1 / 16)  # type: ignore[operator]
        assert torch.allclose(weights.value[:, head, :, 0], weight, atol=1e-6)  # type: ignore[index]
    assert weights.normalizer is weights.key
    decoupled = GATES["kv_decoupled"].load()(GEOMETRY)
    names = {name: id(parameter) for name, parameter in decoupled.named_parameters()}
    weights = decoupled.weights(x)
    assert names == {
        "key_scale_gamma": id(weights.key),
        "key_scale_tau": id(weights.normalizer),
        "value_scale": id(weights.value),
    }
    output, o = GATES["output"].load()(GEOMETRY), torch.randn(2, TOKENS, 8, generator=generator)
    rms = o.square().mean(-1, keepdim=True).sqrt()
    assert torch.allclose(output.output(x, o), output.output_gate(x).sigmoid() * o / (rms + 1e-6))  # type: ignore[operator]


def test_dynamic_convolution_is_a_kernel_for_each_sample_and_channel(generator: torch.Generator) -> None:
    module = CONVOLUTIONS["dynamic"].load()(GEOMETRY)
    x, v = (torch.randn(2, 5, 8, generator=generator) for _ in range(2))
    kernels = module.residual(x.mean(1).unsqueeze(-1)).reshape(2, 8, 3)  # type: ignore[operator]
    found, padded = module(x, v), torch.nn.functional.pad(v, (0, 0, 1, 1))
    for t in range(5):
        wanted = sum(kernels[..., tap] * padded[:, t + tap] for tap in range(3))
        assert torch.allclose(found[:, t], wanted, atol=1e-6)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="dim=10 is not a multiple of num_heads=4"):
        Attention(10, 4, AttentionConfig())
