"""Layers that several models share. Shapes: any leading axes; F width."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ADALN_EPS = 1e-6
"""Epsilon of the norms without parameters that AdaLN modulates, as in DiT."""


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`x (1 + scale) + shift`, where all broadcast."""
    return torch.addcmul(shift, x, 1 + scale)


def gather(values_BNC: Tensor, ids_BK: Tensor) -> Tensor:
    """The tokens of each sample at `ids_BK`, in that order: [B, K, C]."""
    return values_BNC.gather(1, ids_BK.unsqueeze(-1).expand(-1, -1, values_BNC.shape[-1]))


class ZeroLinear(nn.Linear):
    """A linear layer whose weight and bias start at zero (`lina_lab.model.initialization`)."""


class TwoLayer(nn.Module):
    """Linear, SiLU, linear."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, outputs)
        self.fc2 = nn.Linear(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(x)))


class AdaLNModulation(nn.Module):
    """AdaLN-Zero (DiT): a linear layer of the condition's SiLU to `chunks` tensors of width F; initialized to zero."""

    def __init__(self, dim: int, chunks: int) -> None:
        super().__init__()
        self.chunks = chunks
        self.proj = ZeroLinear(dim, chunks * dim)

    def forward(self, active: Tensor) -> tuple[Tensor, ...]:
        """From the SiLU of the condition, which several layers share."""
        return self.proj(active).chunk(self.chunks, dim=-1)
