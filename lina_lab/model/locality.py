"""Convolutions beside attention (`lina.md` section 2).

Shapes: B batch, M condition tokens, N image tokens, T = M + N, D width.
"""

from collections.abc import Callable

from einops import rearrange
from torch import Tensor, nn

from lina_lab.registry import Registry

CONVOLUTIONS: Registry[Callable[[int, int, tuple[int, int], int], nn.Module]] = Registry("conv")
"""Makers of a convolution for (dim, kernel, grid, condition tokens); its forward maps [B, T, D] to [B, N, D]."""


@CONVOLUTIONS.register("depthwise")
class DepthwiseConvolution(nn.Module):
    """A kernel x kernel depthwise convolution of the image tokens on their grid, zero padded, with bias."""

    def __init__(self, dim: int, kernel: int, grid: tuple[int, int], condition_tokens: int) -> None:
        super().__init__()
        self.grid, self.condition_tokens = grid, condition_tokens
        self.conv = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)

    def forward(self, x_BTD: Tensor) -> Tensor:
        rows, columns = self.grid
        image_BND = x_BTD[:, self.condition_tokens :]
        y_BDRC = self.conv(rearrange(image_BND, "b (r c) d -> b d r c", r=rows, c=columns))
        return rearrange(y_BDRC, "b d r c -> b (r c) d")
