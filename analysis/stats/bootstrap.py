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

from .fit import Array, Points, fit, fit_prepared, prepared
from .laws import Fit, ScalingLaw

Places = npt.NDArray[np.intp]
DRAWS = 400
ROUNDING = 1e-6
MOST_SEEDS = 20
"""With more seeds a size, groups of them are drawn in place of single ones."""
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


class HierarchicalBootstrap:
    """Draws seeds, then blocks, of a table's points again.

    Seeds are drawn with replacement among those of a size: the same ones for all variants, which are paired by them,
    and for all checkpoints of a run. The spread of so few is widened by sqrt(n / (n - 1)), without which it would be
    too small on average. What each point stands for (size, variant, checkpoint) stays; only its loss is another.

    Args:
        points: columns `variant`, `parameters`, `seed`, `loss`; `images` where a run has several checkpoints; `blocks`
            where they are known: the means of the blocks that a loss is the mean of.
        residuals: of a fit to the points, log(L) - log(fit). For several checkpoints a run: blocks of their residuals
            are drawn again then.
    """

    def __init__(self, points: pd.DataFrame, residuals: Array | None = None) -> None:
        self.loss = points["loss"].to_numpy(float)
        self.blocks = [np.asarray(b, dtype=float) for b in points["blocks"]] if "blocks" in points else None
        self.residuals = residuals
        # For each size, and each of its variants: the places of its points, [seeds, checkpoints].
        self.sizes: list[list[Places]] = []
        places = points.assign(place=range(len(points)), images=points.get("images", 0))
        for _, group in places.groupby("parameters", sort=False):
            seeds = sorted(group["seed"].unique())
            wide = group.pivot(index="seed", columns=["variant", "images"], values="place").reindex(seeds)
            if wide.isna().any(axis=None):
                raise ValueError("the variants of a size do not have the same seeds: they are not paired")
            names = dict.fromkeys(group["variant"])
            self.sizes.append([wide[name].sort_index(axis=1).to_numpy(np.intp) for name in names])
        self.curves = residuals is not None and any(places.shape[1] > 1 for size in self.sizes for places in size)

    def losses(self, generator: Generator) -> Array:
        """New losses of all points."""
        found = self.loss.copy()
        for variants in self.sizes:
            count, checkpoints = variants[0].shape
            chosen = np.asarray(generator.integers(count, size=count), dtype=np.intp)
            starts = np.asarray(generator.integers(checkpoints, size=(count, _block_count(checkpoints))), dtype=np.intp)
            for places in variants:
                if self.curves:
                    found[places] = self._curves(places, chosen, starts)
                    continue
                losses = self.loss[places]
                middle = losses.mean(axis=0)
                found[places] = middle + _widen(count) * (losses[chosen] - middle)
                if self.blocks is not None:
                    shifts = [self._shift(self.blocks[place], generator) for place in places[chosen].flat]
                    found[places] += np.reshape(shifts, places.shape)
        return found

    def _curves(self, places: Places, chosen: Places, starts: Places) -> Array:
        """New losses of a variant's runs of one size: other runs, and blocks of their checkpoints' residuals."""
        assert self.residuals is not None
        count, checkpoints = places.shape
        own = self.residuals[places]
        means = own.mean(axis=1)
        length = -(-checkpoints // starts.shape[1])
        # Blocks of consecutive checkpoints, which wrap around; the same ones for all variants.
        order = ((starts[..., None] + np.arange(length)) % checkpoints).reshape(count, -1)[:, :checkpoints]
        deviations = np.take_along_axis((own - means[:, None])[chosen], order, axis=1)
        levels = means.mean() + _widen(count) * (means[chosen] - means.mean())
        fitted = np.log(self.loss[places[0]]) - own[0]
        return np.asarray(np.exp(fitted + levels[:, None] + deviations))

    @staticmethod
    def _shift(blocks: Array, generator: Generator) -> float:
        return float(generator.choice(blocks, len(blocks)).mean() - blocks.mean()) if len(blocks) > 1 else 0.0


def _widen(count: int) -> float:
    return float(np.sqrt(count / (count - 1))) if count > 1 else 1.0


def _block_count(checkpoints: int) -> int:
    """Blocks of about the square root of a run's checkpoints."""
    return -(-checkpoints // max(1, round(float(np.sqrt(checkpoints)))))


def grouped(points: pd.DataFrame, most: int = MOST_SEEDS) -> pd.DataFrame:
    """The points with at most `most` seeds a size: above it, means of groups of seeds take their place.

    The error of a mean over seeds stays what it is, and refits stay fast.
    """
    seeds = sorted(points["seed"].unique())
    if len(seeds) <= most:
        return points
    group = {seed: place * most // len(seeds) for place, seed in enumerate(seeds)}
    keys = [name for name in ("variant", "size", "parameters", "body_parameters", "images", "flops") if name in points]
    numbered = points.assign(seed=points["seed"].map(group))
    return numbered.groupby([*keys, "seed"], sort=False, as_index=False).agg(loss=("loss", "mean"))


@dataclass(frozen=True, kw_only=True)
class BootstrapFits:
    """A fit, and those that tell how far it can be trusted; None for each that came to nothing."""

    whole: Fit
    drawn: tuple[Fit | None, ...]
    """With seeds and blocks drawn again."""
    without: tuple[Fit | None, ...]
    """Without each (size, seed) in turn."""


def refit(points: pd.DataFrame, law: ScalingLaw, *, draws: int = DRAWS, seed: int = 0) -> BootstrapFits:
    """Fit a law, and again and again to what might have been seen.

    Args:
        points: see `HierarchicalBootstrap`; all of them can be fitted.
        law: the form.
        draws: how often seeds and blocks are drawn again; a fit that is refused is not repeated.
        seed: of the draws.
    """
    whole = fit(points, law)
    if whole.status != "ok":
        return BootstrapFits(whole=whole, drawn=(), without=())
    data, generator = prepared(points, law), np.random.default_rng(seed)
    redraw = HierarchicalBootstrap(points, np.array(whole.residuals))

    def again(data: Points) -> Fit | None:
        found = fit_prepared(data, law, whole) if (data.loss > 0).all() else None
        return found if found is not None and found.status == "ok" else None

    drawn = tuple(again(replace(data, loss=redraw.losses(generator))) for _ in range(draws))
    rest = [points.drop(group.index) for _, group in points.groupby(["parameters", "seed"], sort=False)]
    return BootstrapFits(
        whole=whole, drawn=drawn, without=tuple(again(prepared(part, law)) for part in rest if len(part))
    )


def interval(refits: BootstrapFits, number: Callable[[Fit], float], level: float = 0.9) -> Interval:
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
    middle = number(whole)
    if not low - ROUNDING * abs(middle) <= middle <= high + ROUNDING * abs(middle):
        return _none(level, draws, failed, "the residuals have structure: the law misses more than noise")
    bca_low, bca_high = np.quantile(kept, _bca(kept, middle, without, tails))
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


def held_out_error(points: pd.DataFrame, law: ScalingLaw) -> float:
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
