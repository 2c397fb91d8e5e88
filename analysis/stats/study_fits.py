"""All scaling laws that a study's cells allow: each variant alone, variants pooled, checkpoints, compute."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd

from lina_lab.config.factors import LawKind

from ..load.runs import StudyRuns
from .compute import ComputeAnalysis, analyze_compute
from .extrapolation import held_out_error, slopes
from .fit import fit_law
from .irreducible import LawNumber, SeedwiseLaw, Statistic, fit_ladders, fit_seedwise
from .laws import Fit, Pooling, log_line, power, surface
from .multipliers import Multiplier, size_multipliers, training_multipliers
from .seedwise import Estimate, Ladders, ladders, over_seeds
from .trainings import by_training

SHARED, OWN = power(pooling=Pooling.SHARED_EXPONENTS), power(pooling=Pooling.OWN_EXPONENTS)
SURFACE = surface(pooling=Pooling.OWN_EXPONENTS)
FORMS = (power(), power(irreducible_loss=False), log_line())
MAX_CHECKPOINTS = 12
"""Checkpoints of a run that are fitted; of more, as many are chosen, evenly spaced in the logarithm of images."""
NOTHING: Mapping[LawKind, str] = MappingProxyType({})

Pair = tuple[str, str]
"""Treatment and baseline; the baseline is the earlier of the variants."""


@dataclass(frozen=True, kw_only=True)
class StudyFits:
    """All fits of a study's objective. N: parameters; D: images seen; C: training FLOPs."""

    forms: tuple[Fit, ...]
    """Laws in N of each variant alone, fitted to all its seeds, in several forms. Their `aicc` compares the forms of
    one variant."""
    held_out_errors: tuple[float, ...]
    """Relative error of each of them at the largest size when it is left out of the fit; NaN where unknown."""
    alone: dict[str, SeedwiseLaw]
    """Variant -> law in N of its own."""
    shared: SeedwiseLaw | None
    """Law in N with one E and one exponent for all variants; None for one variant, or where size is confounded."""
    exponent: LawNumber | None
    """The exponent of `shared`."""
    body_exponent: Estimate | None
    """The same exponent at the best E when embeddings are not counted as parameters."""
    own: SeedwiseLaw | None
    """Law in N with one E, and an exponent for each variant; None as `shared`."""
    exponent_differences: dict[Pair, LawNumber]
    """Treatment's exponent in `own` minus the baseline's, paired by seed."""
    surface: SeedwiseLaw | None
    """Law in N and D, fitted to checkpoints: one E, exponents for each variant. None where there are no checkpoints, or
    where it is confounded."""
    surface_exponents: dict[str, tuple[LawNumber, LawNumber]]
    """Variant -> its exponents in N and in D."""
    surface_differences: dict[Pair, tuple[LawNumber, LawNumber]]
    """Treatment's minus the baseline's, paired by seed."""
    surface_held_out_error: float
    """Relative error of the surface at the largest size when it is left out of the fit."""
    multipliers: tuple[Multiplier, ...]
    """What each variant is worth in parameters, images and FLOPs of each earlier one."""
    compute: ComputeAnalysis | None
    """None where there are no checkpoints, or where compute is confounded."""
    confounded: Mapping[LawKind, str]
    """Kinds of law that were not fitted -> what confounds them."""
    slopes: pd.DataFrame
    """See `extrapolation.slopes`."""


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
    if max_checkpoints is None:
        return points
    seen = points[["variant", "size", "images"]].drop_duplicates()
    # Runs of one size or variant may be validated at other images than those of another.
    chosen = [group.iloc[_spaced(group["images"], max_checkpoints)] for _, group in seen.groupby(["variant", "size"])]
    return points.merge(pd.concat(chosen), on=["variant", "size", "images"]) if chosen else points


def _spaced(images: "pd.Series[float]", count: int) -> list[int]:
    """Return the positions of at most so many values, evenly spaced in the logarithm."""
    values = images.to_numpy(float)
    targets = np.geomspace(values.min(), values.max(), count)
    return sorted({int(np.abs(values - target).argmin()) for target in targets})


def _points(runs: StudyRuns, table: pd.DataFrame, more: list[str]) -> pd.DataFrame:
    columns = ["variant", "size", "parameters", *more, "seed", runs.study.objective]
    points = table[columns].rename(columns={runs.study.objective: "loss"}).dropna().astype({"variant": str})
    # Variants of one size differ by a gate's few parameters. The law is not about that, so they get the mean.
    counts = [name for name in ("parameters", "body_parameters") if name in points]
    points = points.sort_values("variant", key=lambda n: n.map(runs.variants.index), kind="stable", ignore_index=True)
    return points.assign(**{n: points.groupby("size")[n].transform("mean").astype(float) for n in counts})


def fit_study(runs: StudyRuns, confounded: Mapping[LawKind, str] = NOTHING) -> StudyFits:
    """Fit every law that the study's points allow.

    Args:
        runs: the study.
        confounded: kinds of law that are not fitted -> what confounds them.
    """
    whole = by_training(runs)
    points, checkpoints = study_points(runs), checkpoint_points(whole, MAX_CHECKPOINTS)
    by_size = points if LawKind.SIZE not in confounded else points[:0]
    several = len(runs.variants) > 1 and len(by_size) > 0
    alone = {v: fit_seedwise(mine, power()) for v, mine in _each(by_size, runs.variants).items()}
    shared = fit_seedwise(ladders(by_size, SHARED.inputs), SHARED) if several else None
    own = fit_seedwise(ladders(by_size, OWN.inputs), OWN) if several else None
    along = len(checkpoints) > 0 and LawKind.SIZE_AND_DATA not in confounded
    area = fit_seedwise(ladders(checkpoints, SURFACE.inputs), SURFACE) if along else None
    cases = [(law, found.ladders.table()) for found in alone.values() for law in FORMS]
    multipliers = [size_multipliers(shared)] if shared is not None and shared.holds else []
    multipliers += [training_multipliers(area)] if area is not None and area.holds else []
    compute = len(checkpoints) > 0 and LawKind.COMPUTE not in confounded
    return StudyFits(
        forms=tuple(fit_law(mine, law) for law, mine in cases),
        held_out_errors=tuple(held_out_error(mine, law) for law, mine in cases),
        alone=alone,
        shared=shared,
        exponent=shared.number(_exponent(shared.variants[0])) if shared is not None and shared.holds else None,
        body_exponent=_body_exponent(by_size, shared),
        own=own,
        exponent_differences={pair: own.number(_difference(*pair)) for pair in _pairs(own)} if own else {},
        surface=area,
        surface_exponents={v: _both(area, _exponent, v) for v in area.variants} if area else {},
        surface_differences={pair: _both(area, _difference, *pair) for pair in _pairs(area)} if area else {},
        surface_held_out_error=_held_out(area),
        multipliers=tuple(itertools.chain(*multipliers)),
        compute=analyze_compute(checkpoint_points(whole)) if compute else None,
        confounded=confounded,
        slopes=slopes(by_size),
    )


def _each(points: pd.DataFrame, variants: Sequence[str]) -> dict[str, Ladders]:
    """Return the ladders of each variant that has whole seeds."""
    found = {v: ladders(points[points["variant"] == v], ("parameters",)) for v in variants} if len(points) else {}
    return {v: mine for v, mine in found.items() if mine.seeds}


def _pairs(law: SeedwiseLaw | None) -> list[Pair]:
    """Return treatment and baseline of every pair of variants."""
    variants = () if law is None else law.variants
    return [(treatment, baseline) for baseline, treatment in itertools.combinations(variants, 2)]


def _exponent(variant: str, index: int = 0) -> Statistic:
    return lambda fits: fits.exponent(variant, index)


def _difference(treatment: str, baseline: str, index: int = 0) -> Statistic:
    return lambda fits: fits.exponent(treatment, index) - fits.exponent(baseline, index)


def _both(area: SeedwiseLaw, make: Callable[..., Statistic], *variants: str) -> tuple[LawNumber, LawNumber]:
    """Return a number for the exponent in N and the one in D."""
    return area.number(make(*variants, 0)), area.number(make(*variants, 1))


def _body_exponent(points: pd.DataFrame, shared: SeedwiseLaw | None) -> Estimate | None:
    """Return the shared exponent when embeddings are not counted."""
    if shared is None or not shared.holds:
        return None
    body = ladders(points.assign(parameters=points["body_parameters"]), SHARED.inputs)
    fits = fit_ladders(body, SHARED.pinned(), [shared.best])
    return over_seeds(fits.exponent(shared.variants[0])[0], seeds=body.seeds)


def _held_out(area: SeedwiseLaw | None) -> float:
    """Return the error at the largest size of the law with the same E, fitted to the mean losses of the others."""
    if area is None or not area.holds:
        return float("nan")
    return held_out_error(area.ladders.points, area.law.pinned(), floor=area.best)
