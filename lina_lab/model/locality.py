"""Convolutions that are added to attention's output.

A convolution is built from a `Geometry`. It maps the input and the values, [B, T, D] each, to what is added, [B, T, D].
Its entry is in `lina_lab/variants/convolutions.py`.

Shapes: B batch, M condition tokens, N image tokens, T = M + N, D width, K taps.
"""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lina_lab.kernels import takes_convolution
from lina_lab.variants import Geometry


def no_convolution(geometry: Geometry) -> None:
    """conv=none."""


class DepthwiseConvolution(nn.Module):
    """A kernel x kernel depthwise convolution, with bias, of the input's image tokens on their grid, zero padded.

    It adds nothing to condition tokens.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.grid, self.condition_tokens = geometry.grid, geometry.condition_tokens
        dim, kernel = geometry.dim, geometry.kernel
        self.conv = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)

    def forward(self, x_BTD: Tensor, v_BTD: Tensor, base_BTD: Tensor | None = None) -> Tensor:
        """The convolution [B, T, D], added to `base_BTD` if there is one, which may not be needed any more."""
        rows, columns = self.grid
        weight, bias, tokens = self.conv.weight, self.conv.bias, self.condition_tokens + rows * columns
        if base_BTD is not None and takes_convolution(base_BTD, x_BTD, weight, tokens):
            return torch.ops.lina_lab.convolve(base_BTD, x_BTD, weight, bias, rows, columns, self.condition_tokens)
        image_BND = x_BTD[:, self.condition_tokens :]
        image_BDRC = rearrange(image_BND, "b (r c) d -> b d r c", r=rows, c=columns)
        if x_BTD.device.type == "cpu" and not torch.compiler.is_compiling():
            y_BDRC = _DepthwiseOnCpu.apply(image_BDRC, weight, bias)
        else:
            y_BDRC = self.conv(image_BDRC)
        y_BND = rearrange(y_BDRC, "b d r c -> b (r c) d").to(v_BTD.dtype)
        y_BTD = F.pad(y_BND, (0, 0, self.condition_tokens, 0))
        return y_BTD if base_BTD is None else y_BTD.add_(base_BTD)


class _DepthwiseOnCpu(torch.autograd.Function):
    """A depthwise convolution in the precision of its kernel, whose kernel gradient is faster than PyTorch's.

    The kernel gradient is itself a depthwise convolution: of the input, with the output's gradient as the kernel.
    """

    CHANNELS = 512
    """Samples are folded into the channels up to about so many at once: enough for the processor, little memory."""
    ROWS = 16
    """Rows of the grid at once."""

    @staticmethod
    def forward(ctx: Any, x_BDRC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x_BDRC = x_BDRC.to(weight.dtype)
        ctx.save_for_backward(x_BDRC, weight)
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(x_BDRC, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BDRC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_BDRC, weight = ctx.saved_tensors
        dim, reach = len(weight), weight.shape[-1] // 2
        # With odd sides the transposed convolution is a convolution with the kernel turned round.
        grad_x = F.conv2d(grad_BDRC, weight.flip(-2, -1), padding=reach, groups=dim)
        grad_weight = torch.zeros_like(weight)
        samples = max(1, _DepthwiseOnCpu.CHANNELS // dim)
        for x, grad in zip(torch.split(x_BDRC, samples), torch.split(grad_BDRC, samples), strict=True):
            image = F.pad(_folded(x), (0, 0, reach, reach))
            for top, rows in enumerate(torch.split(_folded(grad), _DepthwiseOnCpu.ROWS, dim=-2)):
                seen = image.narrow(-2, top * _DepthwiseOnCpu.ROWS, rows.shape[-2] + 2 * reach)
                taps = F.conv2d(seen, rows.transpose(0, 1), padding=(0, reach), groups=rows.shape[1])
                grad_weight += rearrange(taps, "1 (b d) i j -> b d 1 i j", d=dim).sum(0)
        return grad_x, grad_weight, grad_BDRC.sum((0, 2, 3))


def _folded(x_BDRC: Tensor) -> Tensor:
    """Samples side by side as channels, channels last in memory: [1, B D, R, C]."""
    return rearrange(x_BDRC, "b d r c -> r c (b d)").unsqueeze(0).permute(0, 3, 1, 2)


class DynamicConvolution(nn.Module):
    """Each sample and channel has its own kernel along the sequence of its values, made from the mean token.

    The mean token goes through two 1 x 1 convolutions grouped by head, with GELU between (as in InLine attention).
    """

    AXES = 1
    """Of a kernel."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.kernel = geometry.kernel
        dim, heads, taps = geometry.dim, geometry.heads, geometry.kernel**self.AXES
        self.residual = nn.Sequential(
            nn.Conv1d(dim, dim, 1, groups=heads), nn.GELU(), nn.Conv1d(dim, dim * taps, 1, groups=heads)
        )

    def forward(self, x_BTD: Tensor, v_BTD: Tensor) -> Tensor:
        batch, _, dim = x_BTD.shape
        kernels = self.residual(x_BTD.mean(1).unsqueeze(-1))
        weight = rearrange(kernels, "b (d k) 1 -> (b d) 1 k", k=self.kernel)
        sequence = rearrange(v_BTD, "b t d -> 1 (b d) t").to(weight.dtype)
        y = F.conv1d(sequence, weight, padding=self.kernel // 2, groups=batch * dim)
        return rearrange(y, "1 (b d) t -> b t d", b=batch)


class DynamicGridConvolution(DynamicConvolution):
    """As `DynamicConvolution`, with kernel x kernel taps over the values of the image tokens on their grid.

    The mean token is that of all tokens. It adds nothing to condition tokens.
    """

    AXES = 2

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self.grid, self.condition_tokens = geometry.grid, geometry.condition_tokens

    def forward(self, x_BTD: Tensor, v_BTD: Tensor) -> Tensor:
        batch, _, dim = x_BTD.shape
        kernels = self.residual(x_BTD.mean(1).unsqueeze(-1))
        weight = rearrange(kernels, "b (d i j) 1 -> (b d) 1 i j", i=self.kernel, j=self.kernel)
        image = rearrange(v_BTD[:, self.condition_tokens :], "b (r c) d -> 1 (b d) r c", r=self.grid[0])
        y = F.conv2d(image.to(weight.dtype), weight, padding=self.kernel // 2, groups=batch * dim)
        return F.pad(rearrange(y, "1 (b d) r c -> b (r c) d", b=batch), (0, 0, self.condition_tokens, 0))
