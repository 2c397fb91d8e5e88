"""A number with its interval over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.9


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its confidence interval."""

    value: float
    low: float
    """NaN where there is no interval, as `high` is."""
    high: float
    level: float
    seeds: int
    reason: str = ""
    """Why there is no interval; empty where there is one."""


def over_seeds(values: Sequence[float], whole: float, level: float = LEVEL) -> Estimate:
    """Return the mean of a number over seeds, with Student's t.

    Args:
        values: the number from each seed's points alone; NaN for a seed that does not give it.
        whole: the number from the means over seeds, which is returned where seeds give none.
        level: confidence level.
    """
    kept = np.array([value for value in values if np.isfinite(value)])
    if len(kept) < 2:
        reason = "one seed, so no interval" if len(values) < 2 else f"{len(kept)} of {len(values)} seeds give it"
        return Estimate(value=whole, low=np.nan, high=np.nan, level=level, seeds=max(len(values), 1), reason=reason)
    reach = stats.t.ppf((1 + level) / 2, len(kept) - 1) * kept.std(ddof=1) / np.sqrt(len(kept))
    middle = float(kept.mean())
    return Estimate(value=middle, low=float(middle - reach), high=float(middle + reach), level=level, seeds=len(kept))
