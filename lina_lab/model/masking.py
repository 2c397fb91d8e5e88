"""Which tokens are masked in training, and at which step of generation each token is written."""

import math
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

MEAN, STD, LEAST, MOST = 1.0, 0.25, 0.7, 1.0
"""Mask ratios are normal with this mean and standard deviation, truncated to this range."""


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


def num_masked(ratio: float, tokens: int) -> int:
    """Tokens masked at a ratio: rounded up, so that at least one is."""
    return max(1, math.ceil(ratio * tokens))


def random_orders(batch: int, tokens: int, generator: Generator) -> Tensor:
    """A uniformly random order of the tokens for each sample: int64 [batch, tokens], on the CPU."""
    return torch.rand(batch, tokens, generator=generator).argsort(dim=1)


def step_schedule(tokens: int, steps: int) -> list[int]:
    """Tokens known after each step of generation that writes any, by MaskGIT's cosine schedule; the last is `tokens`.

    After step i of K, `round(tokens cos(π/2 · i/K))` remain masked; steps that would write nothing are left out.

    Raises:
        ValueError: `steps` is not between 1 and `tokens`.
    """
    if not 1 <= steps <= tokens:
        raise ValueError(f"steps={steps} must be between 1 and the {tokens} tokens of an image")
    known = [tokens - round(tokens * math.cos(math.pi / 2 * i / steps)) for i in range(steps + 1)]
    return [after for before, after in pairwise(known) if after > before]
