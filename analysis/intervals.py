"""How far a fit can be trusted: the largest size predicted, seeds and blocks drawn again, slopes without a fit.

Two things are uncertain in a run's loss: its seed, and the steps over which it is averaged. Seeds are drawn again
first, then blocks of neighbouring steps within each run, since neighbours are not independent.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.random import Generator
from scipy import stats

from analysis.laws import Fit, Law
from analysis.scaling import Array, Points, fit, fit_prepared, prepared

DRAWS = 400
FAILED_SHARE = 0.2
"""An interval is given only if fewer refits than this share have failed."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Where a number lies, by drawing again."""

    low: float
    high: float
    bca_low: float
    """Bias-corrected and accelerated (Efron 1987)."""
    bca_high: float
    level: float
    draws: int
    failed: float
    """Share of the refits that came to nothing."""
    reason: str = ""
    """Why there is none: the ends are NaN then."""


class Redraw:
    """Draws seeds, then blocks, of a table's points again.

    Seeds are drawn with replacement among those of a size, the same ones for all variants, which are paired by them.
    The spread of so few is widened by sqrt(n / (n - 1)), without which it would be too small on average. What each
    point stands for (size, variant) stays; only its loss is another.

    Args:
        points: columns `variant`, `seed`, `loss`, the inputs, and, where they are known, `blocks`: the means of the
            blocks that a loss is the mean of.
    """

    def __init__(self, points: pd.DataFrame) -> None:
        self.loss = points["loss"].to_numpy(float)
        self.blocks = [np.asarray(b, dtype=float) for b in points["blocks"]] if "blocks" in points else None
        size = [name for name in ("parameters", "images") if name in points]
        # For each size: its seeds, and for each of its variants the places of its points, in the seeds' order.
        self.sizes: list[tuple[int, list[npt.NDArray[np.intp]]]] = []
        places = points.assign(place=range(len(points)))
        for _, group in places.groupby(size, sort=False):
            seeds = sorted(group["seed"].unique())
            wide = group.pivot(index="seed", columns="variant", values="place").reindex(seeds)
            whole = wide.dropna(axis=1)
            if whole.shape != wide.shape:
                raise ValueError("the variants of a size do not have the same seeds: they are not paired")
            self.sizes.append((len(seeds), [whole[name].to_numpy(np.intp) for name in whole]))

    def losses(self, generator: Generator) -> Array:
        """New losses of all points."""
        found = self.loss.copy()
        for count, variants in self.sizes:
            chosen = generator.integers(count, size=count)
            widen = np.sqrt(count / (count - 1)) if count > 1 else 1.0
            for places in variants:
                middle = self.loss[places].mean()
                found[places] = middle + widen * (self.loss[places[chosen]] - middle)
                if self.blocks is not None:
                    found[places] += [self._shift(self.blocks[place], generator) for place in places[chosen]]
        return found

    @staticmethod
    def _shift(blocks: Array, generator: Generator) -> float:
        return float(generator.choice(blocks, len(blocks)).mean() - blocks.mean()) if len(blocks) > 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class Refits:
    """A fit, and those that tell how far it can be trusted; None for each that came to nothing."""

    whole: Fit
    drawn: tuple[Fit | None, ...]
    """With seeds and blocks drawn again."""
    without: tuple[Fit | None, ...]
    """Without each (size, seed) in turn."""


def refit(points: pd.DataFrame, law: Law, *, draws: int = DRAWS, seed: int = 0) -> Refits:
    """Fit a law, and again and again to what might have been seen.

    Args:
        points: see `Redraw`; all of them can be fitted.
        law: the form.
        draws: how often seeds and blocks are drawn again; a fit that is refused is not repeated.
        seed: of the draws.
    """
    whole = fit(points, law)
    if whole.status != "ok":
        return Refits(whole=whole, drawn=(), without=())
    generator, redraw, data = np.random.default_rng(seed), Redraw(points), prepared(points, law)

    def again(data: Points) -> Fit | None:
        found = fit_prepared(data, law, whole) if (data.loss > 0).all() else None
        return found if found is not None and found.status == "ok" else None

    drawn = tuple(again(replace(data, loss=redraw.losses(generator))) for _ in range(draws))
    keys = [name for name in ("parameters", "images", "seed") if name in points]
    rest = [points.drop(group.index) for _, group in points.groupby(keys, sort=False)]
    return Refits(whole=whole, drawn=drawn, without=tuple(again(prepared(part, law)) for part in rest if len(part)))


def interval(refits: Refits, number: Callable[[Fit], float], level: float = 0.9) -> Interval:
    """The interval of a number that is taken from a fit.

    Args:
        refits: of `refit`.
        number: such as `lambda fit: fit.exponents["a"][0]`.
        level: of confidence.
    """
    whole, draws = refits.whole, len(refits.drawn)
    if whole.status != "ok":
        return _none(level, 0, 0.0, f"{whole.status}: {whole.reason}")
    kept, without = _numbers(refits.drawn, number), _numbers(refits.without, number)
    failed = 1 - len(kept) / draws
    if failed > FAILED_SHARE:
        return _none(level, draws, failed, f"{failed:.0%} of the refits came to nothing")
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(kept, tails)
    bca_low, bca_high = np.quantile(kept, _bca(kept, number(whole), without, tails))
    return Interval(
        low=float(low),
        high=float(high),
        bca_low=float(bca_low),
        bca_high=float(bca_high),
        level=level,
        draws=draws,
        failed=failed,
    )


def _numbers(fits: Sequence[Fit | None], number: Callable[[Fit], float]) -> Array:
    values = np.array([number(found) for found in fits if found is not None], dtype=float)
    return np.asarray(values[np.isfinite(values)])


def _none(level: float, draws: int, failed: float, reason: str) -> Interval:
    nan = float("nan")
    return Interval(
        low=nan, high=nan, bca_low=nan, bca_high=nan, level=level, draws=draws, failed=failed, reason=reason
    )


def _bca(values: Array, middle: float, without: Array, tails: Array) -> Array:
    """The quantiles to take in place of `tails`."""
    below = np.clip((values < middle).mean(), 1 / len(values), 1 - 1 / len(values))
    bias = stats.norm.ppf(below)
    off = without.mean() - without if len(without) > 1 else np.zeros(1)
    spread = (off**2).sum() ** 1.5
    acceleration = (off**3).sum() / (6 * spread) if spread > 0 else 0.0
    z = bias + stats.norm.ppf(tails)
    return np.asarray(stats.norm.cdf(bias + z / (1 - acceleration * z)))


def slopes(points: pd.DataFrame, size: str = "parameters") -> pd.DataFrame:
    """Slopes of log loss against log size between neighbouring sizes: what few sizes do show.

    Returns:
        Columns `variant`, `from`, `to`, `slope`.
    """
    rows = []
    for variant, group in points.groupby("variant", sort=False):
        means = group.groupby(size)["loss"].mean().sort_index()
        for (a, loss_a), (b, loss_b) in itertools.pairwise(means.items()):
            slope = np.log(loss_b / loss_a) / np.log(float(str(b)) / float(str(a)))
            rows.append({"variant": variant, "from": a, "to": b, "slope": slope})
    return pd.DataFrame(rows, columns=["variant", "from", "to", "slope"])


def held_out_error(points: pd.DataFrame, law: Law) -> float:
    """Relative error at the largest size of a fit that has not seen it; NaN where that cannot be fitted."""
    size = law.inputs[0]
    largest = points[size].max()
    seen, unseen = points[points[size] < largest], points[points[size] == largest]
    if seen.empty:
        return float("nan")
    without = fit(seen, law)
    if without.status != "ok":
        return float("nan")
    predicted = [
        without.predict(row["variant"], **{name: row[name] for name in law.inputs}) for _, row in unseen.iterrows()
    ]
    return float(np.mean(np.abs(np.array(predicted) / unseen["loss"].to_numpy(float) - 1)))


def speed_up(pooled: Fit, loss_a: float, loss_b: float) -> float:
    """How many times the size (or data, or compute) variant b needs for a's loss: `((L_b - E)/(L_a - E))^(1/alpha)`.

    Args:
        pooled: a fit with shared offset and exponents.
        loss_a: loss of one variant.
        loss_b: loss of the other, at the same size.
    """
    alpha = next(iter(pooled.exponents.values()))[0]
    if min(loss_a, loss_b) <= pooled.offset:
        return float("nan")
    return float(((loss_b - pooled.offset) / (loss_a - pooled.offset)) ** (1 / alpha))
