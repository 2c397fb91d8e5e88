"""Uncertainty of fits: hierarchical bootstrap over seeds and blocks, held-out largest size, finite-difference slopes.

A run's loss is uncertain for two reasons: its seed, and the steps over which it is averaged. The bootstrap resamples
seeds first, then blocks of neighboring steps within each run, because neighboring steps are correlated.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.random import Generator

from .fit import Array, Points, fit, fit_prepared, prepared
from .laws import Fit, ScalingLaw
from .status import FitStatus

Indices = npt.NDArray[np.intp]
RESAMPLES = 400
ROUNDING = 1e-6
MAX_SEEDS = 20
"""With more seeds than this for a size, means over groups of seeds are resampled in place of single seeds."""
MAX_FAILED_SHARE = 0.2
"""There is no interval if more than this share of the refits failed."""


@dataclass(frozen=True, kw_only=True)
class ConfidenceInterval:
    """A percentile interval from the bootstrap."""

    low: float
    """NaN where there is no interval, as `high` is."""
    high: float
    level: float
    resamples: int
    failed: float
    """Share of the refits that were refused."""
    reason: str = ""
    """Why there is no interval; empty where there is one."""

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return not np.isnan(self.low)

    def contains(self, value: float) -> bool:
        """Whether there is an interval and it includes a value."""
        return self.low <= value <= self.high


class HierarchicalBootstrap:
    """Resamples the losses of a table of points: first seeds, then blocks.

    The seeds of a size are resampled with replacement, the same ones for all variants, which are paired by seed, and
    for all checkpoints of a run. Deviations from the mean are widened by sqrt(n / (n - 1)), because resampling n seeds
    underestimates the spread. Each point keeps its size, variant and checkpoint; only its loss changes.

    Args:
        points: columns `variant`, `parameters`, `seed`, `loss`; `images` where a run has several checkpoints;
            optionally `blocks`, the means of the blocks that each loss averages over.
        residuals: log(L) - log(fit) of a fit to the points. Runs with several checkpoints have blocks of their
            residuals resampled.

    Raises:
        ValueError: the variants of a size have different seeds.
    """

    def __init__(self, points: pd.DataFrame, residuals: Array | None = None) -> None:
        self.loss = points["loss"].to_numpy(float)
        self.blocks = [np.asarray(b, dtype=float) for b in points["blocks"]] if "blocks" in points else None
        self.residuals = residuals
        # For each size and each of its variants, the indices of its points: [seeds, checkpoints].
        self.sizes: list[list[Indices]] = []
        indices = points.assign(index=range(len(points)), images=points.get("images", 0))
        for _, group in indices.groupby("parameters", sort=False):
            seeds = sorted(group["seed"].unique())
            wide = group.pivot(index="seed", columns=["variant", "images"], values="index").reindex(seeds)
            if wide.isna().any(axis=None):
                raise ValueError("the variants of a size do not have the same seeds: they are not paired")
            names = dict.fromkeys(group["variant"])
            self.sizes.append([wide[name].sort_index(axis=1).to_numpy(np.intp) for name in names])
        self.curves = residuals is not None and any(variant.shape[1] > 1 for size in self.sizes for variant in size)

    def losses(self, generator: Generator) -> Array:
        """Return resampled losses of all points."""
        found = self.loss.copy()
        for variants in self.sizes:
            count, checkpoints = variants[0].shape
            chosen = np.asarray(generator.integers(count, size=count), dtype=np.intp)
            starts = np.asarray(generator.integers(checkpoints, size=(count, _block_count(checkpoints))), dtype=np.intp)
            for indices in variants:
                if self.curves:
                    found[indices] = self._curves(indices, chosen, starts)
                    continue
                losses = self.loss[indices]
                mean = losses.mean(axis=0)
                found[indices] = mean + _widen(count) * (losses[chosen] - mean)
                if self.blocks is not None:
                    shifts = [self._shift(self.blocks[index], generator) for index in indices[chosen].flat]
                    found[indices] += np.reshape(shifts, indices.shape)
        return found

    def _curves(self, indices: Indices, chosen: Indices, starts: Indices) -> Array:
        """Resample the losses of a variant's runs of one size: runs, and blocks of their checkpoints' residuals."""
        assert self.residuals is not None
        count, checkpoints = indices.shape
        own = self.residuals[indices]
        means = own.mean(axis=1)
        length = -(-checkpoints // starts.shape[1])
        # Blocks of consecutive checkpoints wrap around, and are the same for all variants.
        order = ((starts[..., None] + np.arange(length)) % checkpoints).reshape(count, -1)[:, :checkpoints]
        deviations = np.take_along_axis((own - means[:, None])[chosen], order, axis=1)
        levels = means.mean() + _widen(count) * (means[chosen] - means.mean())
        fitted = np.log(self.loss[indices[0]]) - own[0]
        return np.asarray(np.exp(fitted + levels[:, None] + deviations))

    @staticmethod
    def _shift(blocks: Array, generator: Generator) -> float:
        return float(generator.choice(blocks, len(blocks)).mean() - blocks.mean()) if len(blocks) > 1 else 0.0


def _widen(count: int) -> float:
    return float(np.sqrt(count / (count - 1))) if count > 1 else 1.0


def _block_count(checkpoints: int) -> int:
    """Return the number of blocks: each is about the square root of a run's checkpoints long."""
    return -(-checkpoints // max(1, round(float(np.sqrt(checkpoints)))))


def grouped(points: pd.DataFrame, max_seeds: int = MAX_SEEDS) -> pd.DataFrame:
    """Replace seeds by means over groups of seeds where there are more than `max_seeds`.

    The standard error of a mean over seeds stays the same, and refits stay fast.
    """
    seeds = sorted(points["seed"].unique())
    if len(seeds) <= max_seeds:
        return points
    group = {seed: index * max_seeds // len(seeds) for index, seed in enumerate(seeds)}
    keys = [name for name in ("variant", "size", "parameters", "body_parameters", "images", "flops") if name in points]
    numbered = points.assign(seed=points["seed"].map(group))
    return numbered.groupby([*keys, "seed"], sort=False, as_index=False).agg(loss=("loss", "mean"))


@dataclass(frozen=True, kw_only=True)
class BootstrapFits:
    """A fit, and its refits to resampled points."""

    whole: Fit
    resampled: tuple[Fit | None, ...]
    """None for a refit that was refused."""


def refit(points: pd.DataFrame, law: ScalingLaw, *, resamples: int = RESAMPLES, seed: int = 0) -> BootstrapFits:
    """Fit a law to the points and to resampled points.

    Args:
        points: see `HierarchicalBootstrap`; all of them can be fitted.
        law: the form.
        resamples: number of refits; a law that is refused is not refitted.
        seed: seed of the resampling.
    """
    whole = fit(points, law)
    if whole.status is not FitStatus.OK:
        return BootstrapFits(whole=whole, resampled=())
    data, generator = prepared(points, law), np.random.default_rng(seed)
    bootstrap = HierarchicalBootstrap(points, np.array(whole.residuals))

    def again(data: Points) -> Fit | None:
        found = fit_prepared(data, law, whole) if (data.loss > 0).all() else None
        return found if found is not None and found.status is FitStatus.OK else None

    resampled = tuple(again(replace(data, loss=bootstrap.losses(generator))) for _ in range(resamples))
    return BootstrapFits(whole=whole, resampled=resampled)


def interval(fits: BootstrapFits, statistic: Callable[[Fit], float], level: float = 0.9) -> ConfidenceInterval:
    """Return the confidence interval of a statistic of a fit.

    Args:
        fits: see `refit`.
        statistic: takes a fit, such as `lambda fit: fit.exponents["a"][0]`.
        level: confidence level.
    """
    whole, resamples = fits.whole, len(fits.resampled)
    if whole.status is not FitStatus.OK:
        return _no_interval(level, 0, 0.0, f"{whole.status}: {whole.reason}")
    values = np.array([statistic(found) for found in fits.resampled if found is not None], dtype=float)
    values = values[np.isfinite(values)]
    failed = 1 - len(values) / resamples
    if failed > MAX_FAILED_SHARE:
        return _no_interval(level, resamples, failed, f"{failed:.0%} of the refits failed")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    estimate = statistic(whole)
    if not low - ROUNDING * abs(estimate) <= estimate <= high + ROUNDING * abs(estimate):
        return _no_interval(level, resamples, failed, "the residuals have structure that noise does not explain")
    return ConfidenceInterval(low=float(low), high=float(high), level=level, resamples=resamples, failed=failed)


def _no_interval(level: float, resamples: int, failed: float, reason: str) -> ConfidenceInterval:
    nan = float("nan")
    return ConfidenceInterval(low=nan, high=nan, level=level, resamples=resamples, failed=failed, reason=reason)


def slopes(points: pd.DataFrame, size: str = "parameters") -> pd.DataFrame:
    """Return the slopes of log loss against log size between neighboring sizes. They need no fit, so two sizes do.

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
    """Return the relative error at the largest size of a fit to the other sizes; NaN if that fit is refused."""
    size = law.inputs[0]
    largest = points[size].max()
    seen, unseen = points[points[size] < largest], points[points[size] == largest]
    smaller = None if seen.empty else fit(seen, law)
    if smaller is None or smaller.status is not FitStatus.OK:
        return float("nan")
    rows = unseen[["variant", *law.inputs]].to_dict("records")
    predicted = np.array([smaller.predict(**row) for row in rows])
    return float(np.mean(np.abs(predicted / unseen["loss"].to_numpy(float) - 1)))


def size_factor(pooled: Fit, loss_a: float, loss_b: float) -> float:
    """Return by which factor variant b must grow to reach a's loss: `((L_b - E)/(L_a - E))^(1/alpha)`.

    Args:
        pooled: a fit with shared E and exponents; the factor is of its first input.
        loss_a: loss of one variant.
        loss_b: loss of the other, at the same size.
    """
    alpha = next(iter(pooled.exponents.values()))[0]
    if min(loss_a, loss_b) <= pooled.irreducible_loss:
        return float("nan")
    return float(((loss_b - pooled.irreducible_loss) / (loss_a - pooled.irreducible_loss)) ** (1 / alpha))
