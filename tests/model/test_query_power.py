"""qk_norm=power: rows of weights that follow the query's norm (as in NaLaFormer), against loops in float64."""

import math

import pytest
import torch
from torch import Tensor

from lina_lab.config import AttentionConfig
from lina_lab.model import Attention
from lina_lab.model.linear import EPSILON
from lina_lab.model.norms import PowerNorm
from lina_lab.variants import QK_NORMS, Geometry
from tests.model.test_attention import TOLERANCES
from tests.model.test_token_blocks import each_normalization
from tests.model.twins import GEOMETRY, GRID, assert_twins, normal, scattered


def power_of(query: Tensor) -> Tensor:
    """The formula, number by number, of one head's query [E]: without the factor √E."""
    norm = sum(number**2 for number in query) ** 0.5
    power = 3 * (0.5 + (norm.exp() - (-norm).exp()) / (norm.exp() + (-norm).exp()))
    return torch.stack([number.sign() * (number.abs() / norm) ** power for number in query])


def test_under_division_and_relu_it_is_the_published_map(generator: torch.Generator) -> None:
    """Its positive half: a query's scale and what is added to its squared norm differ, and rows do not show it."""
    config = AttentionConfig(conv="none", gate="none", qk_norm="power")
    module = scattered(Attention(8, 2, config, GRID, 0), generator)
    module.qkv.bias.data[:16] += 3  # type: ignore[operator]  # few are negative, so no row is zero
    x = normal(generator, 2, 15, 8)

    def twin() -> Tensor:
        q, k, v = module.qkv(x).chunk(3, -1)  # type: ignore[operator]
        samples = []
        for sample in range(2):
            heads = []
            for part in (slice(0, 4), slice(4, 8)):
                queries = torch.stack([power_of(query) for query in q[sample, :, part]])
                products = queries.relu() @ (k[sample, :, part] ** 3).relu().T
                heads.append(products / products.sum(-1, keepdim=True) @ v[sample, :, part])
            samples.append(torch.cat(heads, -1))
        return module.proj(torch.stack(samples))  # type: ignore[no-any-return, operator]

    inputs, found, expected = [x, *module.parameters()], module(x), twin()
    upstream = normal(generator, 2, 15, 8).detach()
    pairs = [(found, expected)]
    pairs += zip(*(torch.autograd.grad(out, inputs, upstream) for out in (found, expected)), strict=True)
    assert all((a - b).abs().max() <= 1e-3 * b.abs().max() for a, b in pairs)


def test_the_module_is_its_formula_to_the_last_digit(generator: torch.Generator) -> None:
    qkv = normal(generator, 2, 15, 24)

    def twin() -> Tensor:
        q, k, v = qkv.chunk(3, -1)
        heads = []
        for part in (slice(0, 4), slice(4, 8)):
            norm = ((q[..., part] ** 2).sum(-1) + 1e-6) ** 0.5
            power = 3 / 2 + 3 * norm.tanh()
            heads.append(
                torch.stack(
                    [
                        q[..., i].sign() * (power * (2 * q[..., i].abs() / norm).log()).exp()
                        for i in range(part.start, part.stop)
                    ],
                    -1,
                )
            )
        return torch.cat([*heads, k * k * k, v], -1)

    assert_twins(lambda: PowerNorm(GEOMETRY)(qkv), twin, [qkv])


def entropy_of_rows(scale: float, qk_norm: str, generator: torch.Generator) -> float:
    """Mean entropy of the rows of weights, in nats, where all queries are multiplied by a factor."""
    q, k = torch.randn(2, 1, 64, 16, generator=generator, dtype=torch.float64)
    x = torch.cat([scale * q / 4, k, k], -1)
    module = QK_NORMS[qk_norm].load()(Geometry(dim=16, heads=1))
    a, b, _ = (x if module is None else module.double()(x)).chunk(3, -1)
    products = (a.relu() + EPSILON) @ (b.relu() + EPSILON).mT
    rows = products / products.sum(-1, keepdim=True)
    return -(rows * rows.log()).sum(-1).mean().item()


def test_rows_of_longer_queries_are_sharper_which_division_otherwise_cancels() -> None:
    sharpness = {
        qk_norm: [
            entropy_of_rows(scale, qk_norm, torch.Generator().manual_seed(0)) for scale in (0.1, 0.3, 1.0, 3.0, 10.0)
        ]
        for qk_norm in ("none", "width", "power")
    }
    assert sharpness["none"] == pytest.approx([sharpness["none"][0]] * 5, rel=1e-3)
    assert sharpness["width"] == pytest.approx([sharpness["width"][0]] * 5, rel=1e-3)
    assert sharpness["power"] == sorted(sharpness["power"], reverse=True)
    assert sharpness["power"][0] - sharpness["power"][-1] > 0.1
    assert max(sharpness["power"]) < math.log(64)


@pytest.mark.parametrize("fill", [0.0, 1e-30, 1e-3, 1e4, 1e15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_queries_of_any_size_have_finite_maps_and_gradients(fill: float, dtype: torch.dtype) -> None:
    """Zeros, and single zeros in a query, where the slope of a power could be infinite, too."""
    qkv = torch.full((1, 3, 24), fill, dtype=dtype)
    qkv[..., 8:] = 0.5
    qkv[..., ::3] = 0
    qkv[:, 1] *= -1
    qkv.requires_grad_()
    out = PowerNorm(GEOMETRY)(qkv)
    out.float().sum().backward()
    assert out.dtype == dtype
    assert out.isfinite().all()
    assert qkv.grad is not None
    assert qkv.grad.isfinite().all()
    assert torch.equal(out[:, 1], -out[:, 0])


@each_normalization
def test_attention_in_bfloat16_is_near_that_in_float64(normalization: str, generator: torch.Generator) -> None:
    config = AttentionConfig(normalization=normalization, conv="none", gate="none", qk_norm="power")
    module = Attention(8, 2, config, GRID, 4)
    x = torch.randn(2, 19, 8, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x)
    expected = module.double()(x.double())
    assert (found - expected).abs().max() <= TOLERANCES[torch.bfloat16] * expected.abs().max()


def test_it_has_no_weights_and_goes_with_every_core() -> None:
    assert list(PowerNorm(GEOMETRY).parameters()) == []
    for kind in ("linear", "blocks", "softmax", "mediator"):
        AttentionConfig(kind=kind, conv="none", gate="none", qk_norm="power")
