"""All scaling laws that a study's cells allow: each variant alone, variants pooled, checkpoints, compute."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import pandas as pd

from lina_lab.config.factors import LawKind

from ..load.runs import StudyRuns
from .bootstrap import BootstrapFits, ConfidenceInterval, grouped, held_out_error, interval, refit, size_factor, slopes
from .compute import ComputeAnalysis, analyze_compute
from .fit import fit
from .laws import Fit, Pooling, ScalingLaw, log_line, power, surface
from .status import FitStatus, Refusal

SHARED_EXPONENTS, OWN_EXPONENTS = Pooling.SHARED_EXPONENTS, Pooling.OWN_EXPONENTS
SHARED = (power(pooling=SHARED_EXPONENTS), power(irreducible_loss=False, pooling=SHARED_EXPONENTS))
"""The law without E is for losses that do not flatten: it is fitted where E ends at zero. So it is below."""
OWN = (power(pooling=OWN_EXPONENTS), power(irreducible_loss=False, pooling=OWN_EXPONENTS))
SURFACES = (surface(pooling=OWN_EXPONENTS), surface(irreducible_loss=False, pooling=OWN_EXPONENTS))
SEPARATE = (power(), power(irreducible_loss=False), log_line())
LEVEL, RESAMPLES, SURFACE_RESAMPLES = 0.9, 200, 100
MAX_CHECKPOINTS = 12
"""Checkpoints of a run that are fitted; of more, as many are chosen, evenly spaced in the logarithm of images."""

NOTHING: Mapping[LawKind, str] = MappingProxyType({})

Statistic = Callable[[Fit], float]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number from a fit, with its confidence interval."""

    value: float
    interval: ConfidenceInterval


@dataclass(frozen=True, kw_only=True)
class PooledFit:
    """A law fitted to all variants together."""

    attempts: tuple[Fit, ...]
    """The laws that were fitted; if one holds, it is the last. Empty where there is nothing to fit."""
    bootstrap: BootstrapFits | None
    """None where no law holds."""
    points: pd.DataFrame
    """What was fitted."""

    @property
    def fit(self) -> Fit | None:
        """The fit that holds; None if none does."""
        return self.attempts[-1] if self.attempts and self.attempts[-1].status is FitStatus.OK else None

    def estimate(self, statistic: Statistic) -> Estimate:
        """Return a statistic of the fit that holds, with its confidence interval."""
        assert self.fit is not None
        assert self.bootstrap is not None
        return Estimate(value=statistic(self.fit), interval=interval(self.bootstrap, statistic, LEVEL))


@dataclass(frozen=True, kw_only=True)
class StudyFits:
    """All fits of a study's objective. N: parameters; D: images seen; C: training FLOPs."""

    separate: tuple[Fit, ...]
    """Laws in N of each variant alone."""
    held_out_errors: tuple[float, ...]
    """Relative error of each of them at the largest size when it is left out of the fit; NaN where unknown."""
    shared: PooledFit
    """Law in N with one E and one exponent for all variants."""
    exponent: Estimate | None
    """The exponent of `shared`."""
    body_exponent: float
    """The same exponent when embeddings are not counted as parameters; NaN where there is none."""
    size_factors: dict[str, Estimate]
    """Variant -> by which factor the first variant must grow to reach its loss at the largest size."""
    own: PooledFit
    """Law in N with one E, and an exponent for each variant."""
    exponent_differences: dict[str, Estimate]
    """Variant -> its exponent in `own` minus the first variant's."""
    surface: PooledFit
    """Law in N and D, fitted to checkpoints: one E, exponents for each variant."""
    surface_exponents: dict[str, tuple[Estimate, Estimate]]
    """Variant -> its exponents in N and in D."""
    surface_differences: dict[str, tuple[Estimate, Estimate]]
    """Variant -> these minus the first variant's."""
    surface_held_out_error: float
    """Relative error of the surface at the largest size when it is left out of the fit."""
    compute: ComputeAnalysis | None
    """None where there are no checkpoints."""
    confounded: Mapping[LawKind, str]
    """Kinds of law that were not fitted, see `budgets.confounded`."""
    slopes: pd.DataFrame
    """See `bootstrap.slopes`."""


def study_points(runs: StudyRuns) -> pd.DataFrame:
    """Return a row for each cell: `variant`, `size`, `parameters`, `body_parameters`, `seed`, `loss` (objective)."""
    return _points(runs, runs.cells, ["body_parameters"])


def checkpoint_points(runs: StudyRuns, max_checkpoints: int | None = None) -> pd.DataFrame:
    """Return a row for each checkpoint of the cells: as `study_points`, and `images`, `flops`.

    Args:
        runs: the study.
        max_checkpoints: most checkpoints of a run; None: all.
    """
    table = runs.checkpoints[runs.checkpoints["reason"] == ""]
    points = _points(runs, table, ["images", "flops"])
    images = sorted(points["images"].unique())
    if max_checkpoints is None or len(images) <= max_checkpoints:
        return points
    ratio = (images[-1] / images[0]) ** (1 / (max_checkpoints - 1))
    targets = [images[0] * ratio**k for k in range(max_checkpoints)]
    chosen = {min(images, key=lambda seen, target=target: abs(seen - target)) for target in targets}  # type: ignore[misc]
    return points[points["images"].isin(chosen)].reset_index(drop=True)


def _points(runs: StudyRuns, table: pd.DataFrame, more: list[str]) -> pd.DataFrame:
    columns = ["variant", "size", "parameters", *more, "seed", runs.study.objective]
    points = table[columns].rename(columns={runs.study.objective: "loss"}).dropna().astype({"variant": str})
    # Variants of one size differ by a gate's few parameters. The law is not about that, so they get the mean.
    counts = [name for name in ("parameters", "body_parameters") if name in points]
    points = points.sort_values("variant", key=lambda n: n.map(runs.variants.index), kind="stable", ignore_index=True)
    return points.assign(**{n: points.groupby("size")[n].transform("mean").astype(float) for n in counts})


def fit_study(runs: StudyRuns, resamples: int = RESAMPLES, confounded: Mapping[LawKind, str] = NOTHING) -> StudyFits:
    """Fit every law that the study's points allow.

    Args:
        runs: the study.
        resamples: number of bootstrap refits for an interval.
        confounded: kinds of law that are not fitted (`budgets.confounded`).
    """
    points, first, variants = study_points(runs), runs.variants[0], runs.variants
    by_size, along, by_compute = (law not in confounded for law in LawKind)
    cases = [(law, points[points["variant"] == variant]) for variant in variants for law in SEPARATE if by_size]
    several = by_size and len(variants) > 1
    shared = _pooled(points, SHARED if several else (), resamples)
    own = _pooled(points, OWN if several else (), resamples)
    checkpoints = checkpoint_points(runs, MAX_CHECKPOINTS)
    area = _pooled(checkpoints, SURFACES if along else (), min(resamples, SURFACE_RESAMPLES))
    largest, others = float(points["parameters"].max()), variants[1:]
    return StudyFits(
        separate=tuple(fit(mine, law) for law, mine in cases),
        held_out_errors=tuple(held_out_error(mine, law) for law, mine in cases),
        shared=shared,
        exponent=shared.estimate(_exponent(first)) if shared.fit else None,
        body_exponent=_body_exponent(points, shared.fit, first),
        size_factors={v: shared.estimate(_size_factor(first, v, largest)) for v in others} if shared.fit else {},
        own=own,
        exponent_differences={v: own.estimate(_difference(first, v)) for v in others} if own.fit else {},
        surface=area,
        surface_exponents={v: _pair(area, _exponent(v, 0), _exponent(v, 1)) for v in variants} if area.fit else {},
        surface_differences=(
            {v: _pair(area, _difference(first, v, 0), _difference(first, v, 1)) for v in others} if area.fit else {}
        ),
        surface_held_out_error=held_out_error(area.points, area.fit.law) if area.fit else float("nan"),
        compute=analyze_compute(checkpoint_points(runs)) if by_compute and len(checkpoints) else None,
        confounded=confounded,
        slopes=slopes(points if by_size else points[:0]),
    )


def _pooled(points: pd.DataFrame, laws: Sequence[ScalingLaw], resamples: int) -> PooledFit:
    """Fit the first law, and the next one where E ends at zero."""
    paired, attempts = grouped(_paired(points)), []
    for law in laws if len(paired) else ():
        attempts.append(fit(paired, law))
        if attempts[-1].refusal is not Refusal.NO_IRREDUCIBLE_LOSS:
            break
    holds = attempts and attempts[-1].status is FitStatus.OK
    bootstrap = refit(paired, attempts[-1].law, resamples=resamples) if holds else None
    return PooledFit(attempts=tuple(attempts), bootstrap=bootstrap, points=paired)


def _paired(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points whose size, checkpoint and seed all variants have, and whose seed all checkpoints have."""
    keys = [name for name in ("parameters", "images") if name in points]
    counts = points.groupby([*keys, "seed"])["variant"].transform("nunique")
    whole = points[counts == points["variant"].nunique()].reset_index(drop=True)
    if "images" in whole and len(whole):
        seeds = whole.groupby(["parameters", "images"])["seed"].transform("nunique")
        whole = whole[seeds == whole.groupby("parameters")["seed"].transform("nunique")].reset_index(drop=True)
    return whole


def _exponent(variant: str, index: int = 0) -> Statistic:
    return lambda found: found.exponents[variant][index]


def _difference(first: str, variant: str, index: int = 0) -> Statistic:
    return lambda found: found.exponents[variant][index] - found.exponents[first][index]


def _pair(area: PooledFit, size: Statistic, data: Statistic) -> tuple[Estimate, Estimate]:
    return area.estimate(size), area.estimate(data)


def _body_exponent(points: pd.DataFrame, shared: Fit | None, first: str) -> float:
    """Return the shared exponent when embeddings are not counted."""
    if shared is None:
        return float("nan")
    body = points.assign(parameters=points["body_parameters"])
    found = fit(grouped(_paired(body)), shared.law)
    return found.exponents[first][0] if found.status is FitStatus.OK else float("nan")


def _size_factor(first: str, variant: str, size: float) -> Statistic:
    def statistic(found: Fit) -> float:
        losses = (found.predict(name, parameters=size) for name in (variant, first))
        return size_factor(found, *losses)

    return statistic
