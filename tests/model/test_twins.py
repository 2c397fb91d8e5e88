"""Variants of other papers than LINA's against naive twins: plain, quadratic where it applies, in float64."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lina_lab.config import AttentionConfig
from lina_lab.model import Attention
from lina_lab.variants import CONVOLUTIONS, Geometry

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
        return module.proj(torch.cat(heads, -1) + module.conv(x, v))  # type: ignore[operator]

    assert_twins(lambda: module(x), twin, [x, *module.parameters()])
