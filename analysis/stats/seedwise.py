"""Numbers of laws with intervals over seeds.

Each seed is a whole ladder, every variant at every size. A law is fitted to each seed by itself, and Student's t over
the seeds' values gives the interval, which covers as often as it claims for two seeds already, also where the noise
differs between sizes. Variants are paired by seed, because differences are taken within a seed. One seed gives no
interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from .fit import Array
from .identifiability import ONE_VARIANT

LEVEL = 0.9
MAX_SEEDS = 20
"""With more seeds than this, means over groups of seeds stand for single seeds, so that fits stay few."""
ONE_SEED = "one seed, so no interval"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its interval over seeds."""

    value: float
    low: float
    """NaN where there is no interval, as `high` is."""
    high: float
    level: float
    seeds: int
    reason: str = ""
    """Why there is no interval; empty where there is one."""

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return not np.isnan(self.low)

    def contains(self, value: float) -> bool:
        """Whether there is an interval and it includes a value."""
        return self.low <= value <= self.high


def without_interval(value: float, seeds: int, reason: str, level: float = LEVEL) -> Estimate:
    """Return a number that has no interval."""
    return Estimate(value=value, low=float("nan"), high=float("nan"), level=level, seeds=seeds, reason=reason)


def student(values: Array, level: float = LEVEL) -> tuple[Array, Array]:
    """Return the means over the last dimension, and the half-widths of their intervals by Student's t.

    Args:
        values: [..., seeds]
        level: confidence level.

    Returns:
        Two arrays [...]; the half-widths are NaN for one seed.
    """
    seeds = values.shape[-1]
    if seeds < 2:
        return values.mean(axis=-1), np.full(values.shape[:-1], np.nan)
    error = values.std(axis=-1, ddof=1) / np.sqrt(seeds)
    return values.mean(axis=-1), np.asarray(_quantile(level, seeds - 1) * error)


@cache
def _quantile(level: float, freedom: int) -> float:
    """Return the half-width of Student's t's interval in standard errors."""
    return float(stdtrit(freedom, (1 + level) / 2))


def over_seeds(
    values: Sequence[float] | Array,
    whole: float | None = None,
    level: float = LEVEL,
    *,
    log: bool = False,
    seeds: int | None = None,
) -> Estimate:
    """Return the mean of the seeds' values with its interval.

    Args:
        values: one of each seed, or of each group of seeds: [n]. NaN where a seed has none; then there is no interval,
            because the other seeds are not a fair choice.
        whole: the number from all seeds together, for where there is no mean.
        level: confidence level.
        log: values and `whole` are logarithms; the number and its interval are their exponentials.
        seeds: number of seeds where the values are of groups.
    """
    each, seeds = np.asarray(values, dtype=float), len(values) if seeds is None else seeds
    known, back = int(np.isfinite(each).sum()), np.exp if log else float
    mean, reach = (float(number) for number in student(each, level))
    if known < len(each) or len(each) < 2:
        middle = mean if whole is None else whole
        unit = "seeds" if len(each) == seeds else "groups of seeds"
        reason = ONE_SEED if len(each) < 2 else f"{known} of {len(each)} {unit} give it, so no interval"
        return without_interval(float(back(middle)), seeds, reason, level)
    if reach <= 1e-12 * abs(mean):
        return without_interval(float(back(mean)), seeds, "all seeds give the same, so no interval", level)
    value, low, high = (float(back(number)) for number in (mean, mean - reach, mean + reach))
    return Estimate(value=value, low=low, high=high, level=level, seeds=seeds)


@dataclass(frozen=True, kw_only=True)
class Ladders:
    """The losses of seeds that are whole: each has every variant at every size (and checkpoint)."""

    points: pd.DataFrame
    """A row for each point that every seed has: the columns of the points but `seed`; `loss` is the mean."""
    losses: Array
    """[n, points]; n is the number of seeds, or of groups of seeds where there are more than `MAX_SEEDS`."""
    seeds: int
    """Number of whole seeds."""
    left_out: tuple[str, ...]
    """A sentence for each kind of seed or variant that is left out."""

    def table(self) -> pd.DataFrame:
        """Return a row for each point and seed (or group of seeds), as `fit.fit` takes them."""
        parts = [self.points.assign(loss=row, seed=seed) for seed, row in enumerate(self.losses)]
        return pd.concat(parts, ignore_index=True) if parts else self.points.assign(seed=[])


def ladders(points: pd.DataFrame, inputs: Sequence[str], max_seeds: int = MAX_SEEDS) -> Ladders:
    """Return the seeds that are whole: they have every size at which some seed of a variant has a loss.

    A variant of which no seed is whole is left out, so that one variant that diverges leaves the others.

    Args:
        points: columns `loss`, the inputs, `seed` and `variant` where there are several; others are kept where they
            are the same for all seeds of a point.
        inputs: inputs of the law, the size first.
        max_seeds: most ladders; seeds beyond are grouped.
    """
    known = points.assign(**{k: v for k, v in (("variant", ONE_VARIANT), ("seed", 0)) if k not in points})
    known = known[np.isfinite(known["loss"]) & (known["loss"] > 0)]
    keys = ["variant", *inputs]
    wide = known.groupby([*keys, "seed"], sort=False)["loss"].mean().unstack("seed")
    here = wide.notna()
    # A checkpoint that only some seeds of a run have would leave out all others.
    counts = here.sum(axis=1)
    kept = counts == counts.groupby(level=["variant", inputs[0]], sort=False).transform("max")
    wide, here = wide[kept], here[kept]
    whole = here.groupby(level="variant", sort=False).all()
    lost = [str(name) for name in whole.index[~whole.any(axis=1)]]
    whole = whole.drop(index=lost)
    chosen = whole.columns[whole.all(axis=0)] if len(whole) else whole.columns[:0]
    left_out = [f"{name} is left out: none of its seeds has every size" for name in lost]
    sizes = here.index.to_frame(index=False).groupby("variant", sort=False)[inputs[0]].nunique()
    most = known[inputs[0]].nunique()
    left_out += [
        f"{name} has no loss at {most - number} of the {most} sizes" for name, number in sizes.items() if number < most
    ]
    if 0 < len(chosen) < here.shape[1]:
        left_out.append(f"{len(chosen)} of {here.shape[1]} seeds have every variant and size; the others are left out")
    table = wide.loc[~wide.index.get_level_values("variant").isin(lost), chosen]
    losses = _grouped(table.to_numpy(float).T, max_seeds)
    rows = known.drop_duplicates(keys).set_index(keys).reindex(table.index).drop(columns="seed")
    rows = rows.assign(loss=losses.mean(axis=0) if len(losses) else np.nan).reset_index()
    return Ladders(points=rows, losses=losses, seeds=len(chosen), left_out=tuple(left_out))


def _grouped(losses: Array, max_groups: int) -> Array:
    """Return means over groups of seeds where there are more than `max_groups`; the mean over all stays the same."""
    if len(losses) <= max_groups:
        return losses
    size = -(-len(losses) // max_groups)
    return np.array([group.mean(axis=0) for group in np.array_split(losses, len(losses) // size)])
