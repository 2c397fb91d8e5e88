"""The convolution of the kernels against PyTorch's in float64."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lina_lab.kernels.convolution import backward, convolve
from tests.kernels.conftest import DEVICE, largest_error


def exact(base: Tensor, x: Tensor, kernel: Tensor, bias: Tensor, rows: int, columns: int, condition: int) -> Tensor:
    image = x[:, condition:].unflatten(1, (rows, columns)).permute(0, 3, 1, 2)  # type: ignore[no-untyped-call]
    y = F.conv2d(image, kernel, bias, padding=kernel.shape[-1] // 2, groups=len(kernel))
    return base + F.pad(y.flatten(2).mT, (0, 0, condition, 0))


def draw(generator: torch.Generator, batch: int, width: int, tokens: int, side: int) -> list[Tensor]:
    """A base, an input, a kernel and a bias; the first two are parts of wider tensors."""
    shapes = (batch, tokens, 2 * width), (batch, tokens, 2 * width), (width, 1, side, side), (width,)
    base, x, kernel, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    return [base[..., :width], x[..., width:], kernel, bias]


@pytest.mark.parametrize(
    ("batch", "width", "grid", "condition", "side"),
    [(2, 16, (3, 5), 4, 3), (1, 96, (4, 4), 0, 5), (2, 20, (5, 3), 1, 1), (1, 70, (3, 7), 2, 7), (3, 1, (1, 1), 1, 5)],
)
def test_the_convolution_equals_pytorch_s(
    batch: int, width: int, grid: tuple[int, int], condition: int, side: int, generator: torch.Generator
) -> None:
    """What it adds and all gradients: on any grid, with and without condition tokens, for strided inputs."""
    inputs = draw(generator, batch, width, condition + grid[0] * grid[1], side)
    upstream = torch.randn(inputs[0].shape, generator=generator)
    results = []
    for form, device, dtype in ((convolve, DEVICE, torch.float32), (exact, "cpu", torch.float64)):
        own = [x.to(device, dtype).requires_grad_() for x in inputs]
        out = form(*own, *grid, condition)  # type: ignore[operator]
        results.append([out, *torch.autograd.grad(out, own, upstream.to(out))])
    for name, ours, wanted in zip(["y", "base", "x", "kernel", "bias"], *results, strict=True):
        assert largest_error(ours, wanted) <= 1e-5, name


def test_the_base_s_precision_is_the_result_s(generator: torch.Generator) -> None:
    """As under autocast: attention in bfloat16, the block's input and the kernel in float32."""
    base, x, kernel, bias = draw(generator, 2, 16, 16, 3)
    own = [base.bfloat16().to(DEVICE), *(y.to(DEVICE).requires_grad_() for y in (x, kernel, bias))]
    out = convolve(*own, 3, 4, 4)
    assert out.dtype == torch.bfloat16
    assert largest_error(out, exact(*(y.detach().double().cpu() for y in own), 3, 4, 4)) <= 1e-2  # type: ignore[arg-type]
    out.float().sum().backward()
    assert [y.grad.dtype for y in own[1:] if y.grad is not None] == [torch.float32] * 3


def test_sums_over_samples_may_be_split(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    _, x, kernel, _ = (y.to(DEVICE) for y in draw(generator, 3, 8, 21, 3))
    grad = torch.randn(3, 21, 8, generator=generator).to(DEVICE)
    found = []
    for cut in ((1, 4), (2, 2), (4, 1)):
        monkeypatch.setattr("lina_lab.kernels.convolution.chunks", lambda *_, cut=cut: cut)
        found.append(backward(grad, x, kernel, 4, 5, 1)[1])
    assert torch.allclose(found[0], found[1], rtol=1e-5, atol=1e-5)
    assert torch.allclose(found[0], found[2], rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # of what PyTorch imports for it
def test_operators_keep_the_rules_of_pytorch(generator: torch.Generator) -> None:
    own = [y.to(DEVICE) for y in draw(generator, 2, 4, 7, 3)]
    torch.library.opcheck(convolve, (*(y.clone().requires_grad_() for y in own), 2, 3, 1))
    torch.library.opcheck(backward, (own[0], own[1], own[2], 2, 3, 1))


def test_second_derivatives_are_refused_in_one_sentence(generator: torch.Generator) -> None:
    own = [y.to(DEVICE).requires_grad_() for y in draw(generator, 1, 4, 7, 3)]
    (grad,) = torch.autograd.grad(convolve(*own, 2, 3, 1).square().sum(), own[1], create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives of attention need the eager form: unset LINA_KERNELS"):
        grad.square().sum().backward()
