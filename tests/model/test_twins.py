"""Variants of other papers than LINA's against naive twins: plain, quadratic where it applies, in float64."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lina_lab.config import AttentionConfig
from lina_lab.model import LINA, Attention
from lina_lab.model.linear import EPSILON
from lina_lab.model.positions import Rotation
from lina_lab.training.optimizers import grouped_parameters
from lina_lab.variants import CONVOLUTIONS
from tests.model.test_attention import TOLERANCES
from tests.model.test_lina import SMALL, seeded
from tests.model.test_token_blocks import BLOCKS, each_condition, each_normalization
from tests.model.twins import GEOMETRY, GRID, assert_twins, normal, scattered


@each_condition
def test_the_dynamic_convolution_of_the_grid_is_a_sum_over_neighbors(
    condition: int, generator: torch.Generator
) -> None:
    """Kernels by head from the mean of all tokens, over the values of image tokens; condition tokens get nothing."""
    module = scattered(CONVOLUTIONS["dynamic2d"].load()(replace(GEOMETRY, condition_tokens=condition)), generator)
    tokens = condition + GRID[0] * GRID[1]
    x, v = normal(generator, 2, tokens, 8), normal(generator, 2, tokens, 8)
    first, _, last = module.residual  # type: ignore[misc]

    def twin() -> Tensor:
        mean, channels = x.mean(1), 4
        hidden = [
            nn.functional.gelu(mean[:, part] @ first.weight[part, :, 0].T + first.bias[part])
            for part in (slice(0, channels), slice(channels, 2 * channels))
        ]
        out = torch.zeros(2, tokens, 8, dtype=torch.float64)
        for sample, channel, row, column in itertools.product(range(2), range(8), range(GRID[0]), range(GRID[1])):
            total = torch.zeros((), dtype=torch.float64)
            for i, j in itertools.product(range(3), range(3)):
                output, a, b = channel * 9 + 3 * i + j, row + i - 1, column + j - 1
                if 0 <= a < GRID[0] and 0 <= b < GRID[1]:
                    tap = last.weight[output, :, 0] @ hidden[channel // channels][sample] + last.bias[output]
                    total = total + tap * v[sample, condition + a * GRID[1] + b, channel]
            out[sample, condition + row * GRID[1] + column, channel] = total
        return out

    assert_twins(lambda: module(x, v), twin, [x, v, *module.parameters()])


def test_inline_attention_is_its_quadratic_form_and_its_convolution(generator: torch.Generator) -> None:
    """feature_map=identity, normalization=subtraction, conv=dynamic2d of 3 x 3, all tokens those of the image."""
    config = AttentionConfig(
        feature_map="identity", normalization="subtraction", conv="dynamic2d", conv_kernel=3, gate="none"
    )
    module = scattered(Attention(8, 2, config, GRID, 0), generator)
    x = normal(generator, 2, 15, 8)

    def twin() -> Tensor:
        q, k, v = module.qkv(x).chunk(3, -1)  # type: ignore[operator]
        heads = []
        for part in (slice(0, 4), slice(4, 8)):
            products = q[..., part] @ k[..., part].mT / 2  # the root of 4 channels
            heads.append((products - products.mean(-1, keepdim=True) + 1) @ v[..., part] / 15)
        return module.proj(torch.cat(heads, -1) + module.conv(x, v))  # type: ignore[no-any-return, operator]

    assert_twins(lambda: module(x), twin, [x, *module.parameters()])


@each_normalization
def test_the_beta_gate_weighs_keys_of_numerator_and_normalizer(normalization: str, generator: torch.Generator) -> None:
    config = AttentionConfig(normalization=normalization, conv="none", gate="beta")
    module = scattered(Attention(8, 2, config, GRID, 0), generator)
    x = normal(generator, 2, 15, 8)
    shift = EPSILON if normalization == "division" else 0.0

    def twin() -> Tensor:
        q, k, v = module.qkv(x).chunk(3, -1)  # type: ignore[operator]
        beta, heads = module.gate.key_gate(x), []  # type: ignore[operator, union-attr]
        for head, part in enumerate((slice(0, 4), slice(4, 8))):
            weights = 1 / (1 + (-beta[..., head]).exp())
            products = (q[..., part].relu() + shift) @ (k[..., part].relu() + shift).mT * weights.unsqueeze(1)
            if normalization == "division":
                rows = products / (products.sum(-1, keepdim=True) + 15 * EPSILON)
            else:
                rows = products / 2 / 15 + (1 - products.sum(-1, keepdim=True) / 2 / 15) / 15
            heads.append(rows @ v[..., part])
        return module.proj(torch.cat(heads, -1))  # type: ignore[no-any-return, operator]

    assert_twins(lambda: module(x), twin, [x, *module.parameters()])


def rms(x: Tensor) -> Tensor:
    """Over the last axis."""
    return x / (x.square().sum(-1, keepdim=True) / x.shape[-1] + 1e-6) ** 0.5


@pytest.mark.parametrize("kind", ["linear", "softmax"])
@pytest.mark.parametrize("qk_norm", ["width", "head"])
def test_queries_and_keys_are_normed_before_rotation_and_feature_map(
    qk_norm: str, kind: str, generator: torch.Generator
) -> None:
    config = AttentionConfig(kind=kind, conv="none", gate="none", qk_norm=qk_norm)
    module = scattered(Attention(8, 2, config, GRID, 0), generator)
    x, angle = normal(generator, 2, 15, 8), torch.rand(15, 2, generator=generator, dtype=torch.float64)
    rotation = Rotation(angle.cos(), angle.sin())

    def twin() -> Tensor:
        q, k, v = module.qkv(x).chunk(3, -1)  # type: ignore[operator]
        parts, heads = (slice(0, 4), slice(4, 8)), []
        if qk_norm == "width":
            q, k = rms(q), rms(k)
        else:
            q, k = (torch.cat([rms(y[..., part]) for part in parts], -1) for y in (q, k))
        q, k = q * module.qk_norm.query_norm.weight, k * module.qk_norm.key_norm.weight  # type: ignore[union-attr]
        for part in parts:
            turned = [torch.view_as_complex(y[..., part].reshape(2, 15, 2, 2)) for y in (q, k)]
            turned = [y * torch.polar(torch.ones_like(angle), angle) for y in turned]
            a, b = (torch.view_as_real(y).flatten(-2) for y in turned)
            if kind == "softmax":
                rows = (a @ b.mT / 2).softmax(-1)
            else:
                products = (a.relu() + EPSILON) @ (b.relu() + EPSILON).mT
                rows = products / (products.sum(-1, keepdim=True) + 15 * EPSILON)
            heads.append(rows @ v[..., part])
        return module.proj(torch.cat(heads, -1))  # type: ignore[no-any-return, operator]

    assert_twins(lambda: module(x, rotation), twin, [x, *module.parameters()])


@pytest.mark.parametrize("head_norm", ["rms", "gated_rms"])
def test_each_head_s_output_is_normed_before_the_convolution_is_added(
    head_norm: str, generator: torch.Generator
) -> None:
    config = AttentionConfig(kind="softmax", conv="dynamic2d", conv_kernel=3, gate="none", head_norm=head_norm)
    module = scattered(Attention(8, 2, config, GRID, 0), generator)
    x = normal(generator, 2, 15, 8)

    def twin() -> Tensor:
        q, k, v = module.qkv(x).chunk(3, -1)  # type: ignore[operator]
        parts, norm = (slice(0, 4), slice(4, 8)), module.head_norm
        heads = [rms((q[..., p] @ k[..., p].mT / 2).softmax(-1) @ v[..., p]) * norm.norm.weight[p] for p in parts]  # type: ignore[union-attr]
        out = torch.cat(heads, -1)
        if head_norm == "gated_rms":
            out = out / (1 + (-(x @ norm.output_gate.weight.T + norm.output_gate.bias)).exp())  # type: ignore[union-attr]
        return module.proj(out + module.conv(x, v))  # type: ignore[no-any-return, operator]

    assert_twins(lambda: module(x), twin, [x, *module.parameters()])


@pytest.mark.parametrize("fill", [0.0, 1e-30, 1e4])
def test_norms_of_tiny_and_huge_tokens_have_finite_gradients_in_bfloat16(fill: float) -> None:
    module = Attention(8, 2, AttentionConfig(conv="none", gate="none", qk_norm="head", head_norm="gated_rms"))
    nn.init.zeros_(module.qkv.bias)
    x = torch.full((1, 3, 8), fill, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    out.sum().backward()
    for value in (out, x.grad, *(parameter.grad for parameter in module.parameters())):
        assert value is not None
        assert value.isfinite().all()


def test_norms_inside_attention_have_no_weight_decay() -> None:
    model = LINA(replace(SMALL, attention=AttentionConfig(conv="none", gate="none", qk_norm="width", head_norm="rms")))
    decayed = {id(p) for (decays, _), group in grouped_parameters(model).items() for p in group if decays}
    norms = [p for name, p in model.named_parameters() if ".qk_norm." in name or ".head_norm." in name]
    assert len(norms) == 3 * 3  # decoder, encoder and condition encoder
    assert not any(id(p) in decayed for p in norms)


@each_normalization
@pytest.mark.parametrize("kind", ["linear", "blocks"])
@pytest.mark.parametrize("rotate", ["numerator", "raw_numerator"])
def test_a_rotation_of_the_numerator_leaves_the_normalizer_as_it_is(
    rotate: str, kind: str, normalization: str, generator: torch.Generator
) -> None:
    """Under a gate, whose weights on the normalizer's keys are others than those of the numerator."""
    gate = {"linear": "kv_decoupled", "blocks": "none"}[kind]
    config = AttentionConfig(
        kind=kind, normalization=normalization, feature_map="elu", conv="none", gate=gate, rotate=rotate, blocks=6
    )
    module = scattered(Attention(8, 2, config, GRID, 0), generator)
    x, angle = normal(generator, 2, 15, 8), torch.rand(15, 2, generator=generator, dtype=torch.float64)
    shift = EPSILON if normalization == "division" else 0.0

    def turned(y: Tensor) -> Tensor:
        pairs = torch.view_as_complex(y.reshape(2, 15, 2, 2)) * torch.polar(torch.ones_like(angle), angle)
        return torch.view_as_real(pairs).flatten(-2)

    def twin() -> Tensor:
        q, k, v = module.qkv(x).chunk(3, -1)  # type: ignore[operator]
        heads, block = [], torch.tensor(BLOCKS).flatten()
        for head, part in enumerate((slice(0, 4), slice(4, 8))):
            raw = q[..., part], k[..., part]
            mapped = [nn.functional.elu(y) + 1 + shift for y in raw]
            a, b = (turned(y) for y in (mapped if rotate == "numerator" else raw))
            above, below, values = a @ b.mT, mapped[0] @ mapped[1].mT, v[..., part]
            if kind == "blocks":
                mixing = 6 * module.core.logits[head].softmax(-1)[block][:, block]  # type: ignore[index, union-attr]
                above, below = above * mixing, below * mixing
            else:
                weights = module.gate.state_dict(keep_vars=True)  # type: ignore[union-attr]
                above = above * weights["key_scale_gamma"][head].T
                below = below * weights["key_scale_tau"][head].T
                values = values * weights["value_scale"][head]
            total = below.sum(-1, keepdim=True)
            if normalization == "division":
                heads.append(above @ values / (total + 15 * EPSILON))
            else:
                heads.append(above @ values / 30 + (1 - total / 30) * values.mean(1, keepdim=True))
        return module.proj(torch.cat(heads, -1))  # type: ignore[no-any-return, operator]

    rotation = Rotation(angle.cos(), angle.sin())
    assert_twins(lambda: module(x, rotation), twin, [x, *module.parameters()])


def test_a_rotation_of_the_numerator_needs_one_and_a_normalizer() -> None:
    with pytest.raises(ValueError, match="rotate=numerator needs position=rotary: position=sincos rotates nothing"):
        replace(SMALL, attention=AttentionConfig(rotate="numerator"))
    sentence = "rotate=raw_numerator needs kind=linear or blocks: softmax has no numerator of its own"
    with pytest.raises(ValueError, match=sentence):
        AttentionConfig(kind="softmax", conv="none", gate="none", rotate="raw_numerator")


def test_a_rotation_of_the_numerator_trains_in_bfloat16(generator: torch.Generator) -> None:
    attention = AttentionConfig(conv="dynamic2d", conv_kernel=3, gate="beta", qk_norm="width", rotate="numerator")
    config = replace(SMALL, dim=64, position="rotary", attention=replace(attention, head_norm="gated_rms"))
    model = LINA(config)
    latents, label = torch.randn(2, 2, *config.latent_size, generator=generator), torch.tensor([0, 1])
    exact = model.loss(latents, label=label, generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(latents, label=label, generator=seeded())
    loss.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.generate(label=label, steps=2, flow_steps=2, generator=seeded()).isfinite().all()


@each_condition
@pytest.mark.parametrize(
    "changes",
    [
        {"conv": "dynamic2d"},
        {"kind": "blocks", "normalization": "subtraction"},
        {"gate": "beta"},
        {"qk_norm": "width"},
        {"qk_norm": "head", "kind": "softmax"},
        {"head_norm": "gated_rms"},
        {"rotate": "numerator"},
        {"rotate": "raw_numerator", "normalization": "subtraction"},
    ],
    ids=str,
)
def test_variants_in_bfloat16_are_near_those_in_float64(
    changes: dict[str, str], condition: int, generator: torch.Generator
) -> None:
    """Over odd numbers of tokens, with condition tokens and without."""
    rest = {"conv": "none", "gate": "none", "feature_map": "elu", "conv_kernel": 3, "blocks": 6}
    if "kind" in changes:
        rest["feature_map"] = "relu"
    module = Attention(8, 2, AttentionConfig(**(rest | changes)), GRID, condition)  # type: ignore[arg-type]
    tokens = condition + 15
    x, angle = torch.randn(2, tokens, 8, generator=generator), torch.rand(tokens, 2, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x, Rotation(angle.cos(), angle.sin()))
    angle = angle.double()
    expected = module.double()(x.double(), Rotation(angle.cos(), angle.sin()))
    assert found.dtype == torch.bfloat16
    assert (found - expected).abs().max() <= TOLERANCES[torch.bfloat16] * expected.abs().max()
