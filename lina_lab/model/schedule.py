"""How many tokens are masked in training, and how many are written at each step of generation.

Imports no torch: the costs of a study are counted from these numbers by commands that train nothing.
"""

import math
from functools import cache
from itertools import pairwise
from statistics import NormalDist, fmean

MEAN, STD, LEAST, MOST = 1.0, 0.25, 0.7, 1.0
"""Mask ratios are normal with this mean and standard deviation, truncated to this range."""
STRATA = 1000
SOLVERS = ("euler", "heun")
"""Methods that solve the flow's ODE."""


@cache
def mean_mask_ratio() -> float:
    """The mean mask ratio: that of the middles of 1,000 equally probable strata."""
    normal = NormalDist(MEAN, STD)
    low, high = normal.cdf(LEAST), normal.cdf(MOST)
    return fmean(normal.inv_cdf(low + (high - low) * (i + 0.5) / STRATA) for i in range(STRATA))


def num_masked(ratio: float, tokens: int) -> int:
    """Tokens masked at a ratio: rounded up, so that at least one is."""
    return max(1, math.ceil(ratio * tokens))


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


def velocity_calls(flow_steps: int, solver: str = "euler") -> int:
    """How often the velocity is computed to solve the flow's ODE in so many steps."""
    return 2 * flow_steps - 1 if solver == "heun" else flow_steps
