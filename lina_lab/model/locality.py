"""Convolutions beside attention (`lina.md` section 2).

Shapes: B batch, M condition tokens, N image tokens, T = M + N, D width, K taps.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lina_lab.registry import Registry


class Geometry:
    """What a convolution may need to know of the sequence and the attention."""

    def __init__(self, dim: int, num_heads: int, kernel: int, grid: tuple[int, int], condition_tokens: int) -> None:
        self.dim, self.num_heads, self.kernel = dim, num_heads, kernel
        self.grid, self.condition_tokens = grid, condition_tokens


CONVOLUTIONS: Registry[Callable[[Geometry], nn.Module]] = Registry("conv")
"""Makers of a convolution; its forward maps the input and the values, [B, T, D] each, to what is added, [B, T, D]."""


@CONVOLUTIONS.register("depthwise")
class DepthwiseConvolution(nn.Module):
    """A kernel x kernel depthwise convolution, with bias, of the input's image tokens on their grid, zero padded.

    Condition tokens get nothing.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.grid, self.condition_tokens = geometry.grid, geometry.condition_tokens
        dim, kernel = geometry.dim, geometry.kernel
        self.conv = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)

    def forward(self, x_BTD: Tensor, v_BTD: Tensor) -> Tensor:
        rows, columns = self.grid
        image_BND = x_BTD[:, self.condition_tokens :]
        # On the CPU the gradient of a bfloat16 kernel takes four times as long as that of a float32 one.
        with torch.autocast(x_BTD.device.type, enabled=x_BTD.device.type != "cpu" and torch.is_autocast_enabled()):
            y_BDRC = self.conv(rearrange(image_BND, "b (r c) d -> b d r c", r=rows, c=columns))
        return F.pad(rearrange(y_BDRC, "b d r c -> b (r c) d"), (0, 0, self.condition_tokens, 0))


@CONVOLUTIONS.register("dynamic")
class DynamicConvolution(nn.Module):
    """Each sample and channel has its own kernel, made from the mean token, for its values along the sequence.

    The mean goes through two 1 x 1 convolutions grouped by head, with GELU between (as in InLine attention).
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.kernel = geometry.kernel
        dim, heads = geometry.dim, geometry.num_heads
        self.residual = nn.Sequential(
            nn.Conv1d(dim, dim, 1, groups=heads), nn.GELU(), nn.Conv1d(dim, dim * self.kernel, 1, groups=heads)
        )

    def forward(self, x_BTD: Tensor, v_BTD: Tensor) -> Tensor:
        batch, _, dim = x_BTD.shape
        kernels = self.residual(x_BTD.mean(1).unsqueeze(-1))
        weight = rearrange(kernels, "b (d k) 1 -> (b d) 1 k", k=self.kernel)
        sequence = rearrange(v_BTD, "b t d -> 1 (b d) t").to(weight.dtype)
        y = F.conv1d(sequence, weight, padding=self.kernel // 2, groups=batch * dim)
        return rearrange(y, "1 (b d) t -> b t d", b=batch)
