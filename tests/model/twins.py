"""Comparisons with naive twins in float64."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lina_lab.variants import Geometry

GRID = (3, 5)
GEOMETRY = Geometry(dim=8, heads=2, grid=GRID, condition_tokens=4, kernel=3)


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
