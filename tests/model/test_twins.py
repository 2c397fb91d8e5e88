"""Variants of other papers than LINA's against naive twins: plain, quadratic where it applies, in float64."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lina_lab.config import AttentionConfig
from lina_lab.model import LINA, Attention
from lina_lab.model.linear import EPSILON, Weights
from lina_lab.model.positions import Rotation
from lina_lab.model.token_blocks import BlockCore, tiles
from lina_lab.training.optimizers import grouped_parameters
from lina_lab.variants import CONVOLUTIONS, GATES, NORMALIZATIONS, Geometry
from lina_lab.variants.cores import tiling
from tests.model.test_lina import SMALL, seeded

GRID = (3, 5)
GEOMETRY = Geometry(dim=8, heads=2, grid=GRID, condition_tokens=4, kernel=3)
each_condition = pytest.mark.parametrize("condition", [0, 4], ids=["image alone", "with condition"])


def assert_twins(ours: Callable[[], Tensor], twin: Callable[[], Tensor], inputs: list[Tensor]) -> None:
    """Outputs and the gradients of all inputs agree in float64."""
    found, expected = ours(), twin()
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(3), dtype=found.dtype)
    pairs = [(found, expected)]
    pairs += zip(*(torch.autograd.grad(out, inputs, upstream) for out in (found, expected)), strict=True)
    for number, (a, b) in enumerate(pairs):
        assert a.dtype == torch.float64
        assert b.abs().max() > 0, number
        assert (a - b).abs().max() <= 1e-10 * b.abs().max(), number


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def scattered(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """The module in float64, its parameters away from the values at which they start."""
    module.double()
    for parameter in module.parameters():
        parameter.data += 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


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


BLOCKS = [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]
"""Of 3 x 5 tokens, in 6 blocks."""
each_normalization = pytest.mark.parametrize("normalization", NORMALIZATIONS.builtin)


def block_core(normalization: str, generator: torch.Generator, geometry: Geometry) -> BlockCore:
    core = BlockCore(AttentionConfig(kind="blocks", normalization=normalization, gate="none"), geometry)
    return scattered(core, generator)  # type: ignore[return-value]


@each_normalization
@each_condition
def test_token_blocks_are_a_quadratic_form_with_a_weight_for_each_pair_of_blocks(
    condition: int, normalization: str, generator: torch.Generator
) -> None:
    """Numerator and normalizer have the weights, under a gate's own on keys, normalizer and values too."""
    core = block_core(normalization, generator, replace(GEOMETRY, blocks=6, condition_tokens=condition))
    of_image = [block + (condition > 0) for row in BLOCKS for block in row]
    block, tokens = torch.tensor([0] * condition + of_image), condition + 15
    qkv = normal(generator, 3, 2, 2, tokens, 4)
    key, normalizer, value = ((0.5 + torch.rand(2, tokens, 1, generator=generator).double()) for _ in range(3))
    gate = Weights(key=key.requires_grad_(), normalizer=normalizer.requires_grad_(), value=value.requires_grad_())

    def twin() -> Tensor:
        shift = EPSILON if normalization == "division" else 0.0
        q, k = qkv[0].relu() + shift, qkv[1].relu() + shift
        groups = int(block.max()) + 1
        mixing = groups * core.logits.softmax(-1)[:, block][:, :, block]
        if normalization == "division":
            sums = (q @ (k * normalizer).mT * mixing).sum(-1, keepdim=True)
            return (q @ k.mT * mixing / (sums + EPSILON * tokens)) @ (qkv[2] * key * value)
        sums = (q @ (k * normalizer).mT * mixing).sum(-1, keepdim=True) / 2
        spread = (1 - sums / tokens) * (qkv[2] * value).mean(-2, keepdim=True)
        return (q @ k.mT * mixing / 2 / tokens) @ (qkv[2] * key * value) + spread

    assert_twins(lambda: core(qkv, gate), twin, [qkv, core.logits, key, normalizer, value])


@each_normalization
@each_condition
def test_rows_of_token_blocks_sum_to_one(condition: int, normalization: str, generator: torch.Generator) -> None:
    core = block_core(normalization, generator, replace(GEOMETRY, blocks=6, condition_tokens=condition))
    qkv = normal(generator, 3, 2, 2, condition + 15, 4)
    ones = torch.cat([qkv[:2].abs() + 0.1, torch.ones_like(qkv[2:])])
    assert torch.allclose(core(ones, Weights()), ones[2], atol=1e-4)


@each_normalization
def test_the_memory_gate_is_token_blocks_with_equal_rows(normalization: str, generator: torch.Generator) -> None:
    """Of four contiguous blocks. The gate leaves the normalizer as it is, which token blocks weigh too."""
    geometry = replace(GEOMETRY, grid=(12, 1), blocks=4, condition_tokens=0)
    core, gate = block_core(normalization, generator, geometry), GATES["memory"].load()(geometry).double()
    gate.gate_logits.data.copy_(torch.randn(2, 4, generator=generator))
    core.logits.data.copy_(gate.gate_logits.unsqueeze(1).expand(2, 4, 4))
    x, qkv = normal(generator, 2, 12, 8), normal(generator, 3, 2, 2, 12, 4)
    key = gate.weights(x).key
    plain = Attention(8, 2, AttentionConfig(normalization=normalization, conv="none", gate="none")).core
    expected = plain(qkv, Weights(key=key, normalizer=key))  # type: ignore[operator]
    assert torch.allclose(core(qkv, Weights()), expected, rtol=1e-10, atol=1e-12)
    core.logits.data[:, 0, 0] += 1
    assert not torch.allclose(core(qkv, Weights()), expected, rtol=1e-3)


def test_tiles_are_as_square_as_the_grid_lets_them_be() -> None:
    grids = {(16, 16): (4, 4), (8, 32): (2, 8), (7, 7): (4, 4), (1, 20): (1, 16)}
    assert {grid: tiling(grid, 16) for grid in grids} == grids
    assert tiling((3, 5), 7) is None
    found = tiles((3, 5), 6)
    assert found.shape == (6, 4)
    for block, row in enumerate(found.tolist()):
        assert {number for number in row if number < 15} == {
            5 * r + c for r in range(3) for c in range(5) if BLOCKS[r][c] == block
        }


def test_blocks_that_do_not_tile_the_grid_are_refused_and_encoders_have_none() -> None:
    attention = AttentionConfig(kind="blocks", blocks=7)
    sentence = "kind=blocks needs a number of blocks that tiles the grid: blocks=7 do not tile 6 x 4"
    with pytest.raises(ValueError, match=sentence):
        replace(SMALL, attention=attention)
    config = replace(SMALL, attention=replace(attention, blocks=4))
    assert {a.kind for a in (*config.encoder_blocks, *config.condition_blocks)} == {"linear"}
    with pytest.raises(ValueError, match="encoder_attention needs kind, conv and gate that do not need"):
        replace(config, encoder_attention=AttentionConfig(kind="blocks", blocks=4, conv="none", gate="none"))


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
