"""Which tokens are masked in training."""

import torch
from torch import Generator, Tensor, nn

from lina_lab.model.schedule import LEAST, MEAN, MOST, STD


def sample_mask_ratio(generator: Generator) -> float:
    """One mask ratio: normal(1, 0.25) truncated to [0.7, 1]."""
    empty = torch.empty(1, dtype=torch.float64)
    return float(nn.init.trunc_normal_(empty, MEAN, STD, LEAST, MOST, generator=generator))


def stratified_mask_ratios(count: int) -> list[float]:
    """The ratios at the middles of `count` equally probable strata of the same distribution."""
    low, high = torch.special.ndtr((torch.tensor([LEAST, MOST], dtype=torch.float64) - MEAN) / STD)
    middle = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    ratios: list[float] = (MEAN + STD * torch.special.ndtri(low + (high - low) * middle)).tolist()
    return ratios


def random_orders(batch: int, tokens: int, generator: Generator) -> Tensor:
    """A uniformly random order of the tokens for each sample: int64 [batch, tokens], on the CPU."""
    return torch.rand(batch, tokens, generator=generator).argsort(dim=1)
