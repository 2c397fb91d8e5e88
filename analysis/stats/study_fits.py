"""What a study's cells say of a law: each variant alone, all pooled, checkpoints, compute. With refusals in words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from ..load.runs import StudyRuns
from .bootstrap import BootstrapFits, Interval, grouped, held_out_error, interval, refit, slopes, speed_up
from .compute import Compute, compute
from .fit import fit
from .laws import Fit, ScalingLaw, log_line, power, surface

POOLED = (power(share="offset and exponents"), power(offset=False, share="offset and exponents"))
"""The second is for losses that do not flatten: it is taken where the first is refused."""
OWN = (power(share="offset"), power(offset=False, share="offset"))
SURFACES = (surface(share="offset"), surface(offset=False, share="offset"))
ALONE = (power(), power(offset=False), log_line())
LEVEL, DRAWS, SURFACE_DRAWS = 0.9, 200, 100
MOST_CHECKPOINTS = 12
"""Of a run; with more, so many of them are fitted, evenly spaced in the logarithm of images."""
FLAT = "the offset ends at zero"

Number = tuple[float, Interval]
"""A number from a fit, and where it lies."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """A law that variants share a part of: what was fitted, and its refits."""

    tried: tuple[Fit, ...]
    """The laws that were tried, the one that holds last; empty with one variant where it is for several."""
    refits: BootstrapFits | None
    points: pd.DataFrame
    """What was fitted."""

    @property
    def found(self) -> Fit | None:
        """The fit that holds; None if none does."""
        return self.tried[-1] if self.tried and self.tried[-1].status == "ok" else None

    def number(self, of: Callable[[Fit], float]) -> Number:
        """A number of the fit that holds, with its interval."""
        assert self.found is not None
        assert self.refits is not None
        return of(self.found), interval(self.refits, of, LEVEL)


@dataclass(frozen=True, kw_only=True)
class StudyFits:
    """All fits of a study's objective. N: parameters; D: images seen; C: FLOPs of training."""

    alone: tuple[Fit, ...]
    """In N, each variant by itself."""
    held_out: tuple[float, ...]
    """Relative error of each of them at the largest size, unseen; NaN where it cannot be said."""
    pooled: Shared
    """In N: one exponent (and E) for all variants."""
    exponent: Number | None
    """Of `pooled`."""
    body_exponent: float
    """The same without embeddings among the parameters; NaN where there is none."""
    speed_ups: dict[str, Number]
    """Variant -> how many times its size the first variant needs for its loss, at the largest size."""
    own: Shared
    """In N: one E, an exponent for each variant."""
    differences: dict[str, Number]
    """Variant -> its exponent in `own` less the first variant's."""
    surface: Shared
    """In N and D, of checkpoints: one E, exponents for each variant."""
    exponents: dict[str, tuple[Number, Number]]
    """Variant -> its exponents in N and in D."""
    surface_differences: dict[str, tuple[Number, Number]]
    """Variant -> these less the first variant's."""
    surface_held_out: float
    """Relative error of the surface at the largest size, unseen."""
    compute: Compute | None
    """None where there are no checkpoints."""
    slopes: pd.DataFrame
    """Of `analysis.stats.bootstrap.slopes`."""


def study_points(runs: StudyRuns) -> pd.DataFrame:
    """A row for each cell: `variant`, `size`, `parameters`, `body_parameters`, `seed`, `loss` (the objective)."""
    return _points(runs, runs.cells, ["body_parameters"])


def checkpoint_points(runs: StudyRuns, most: int | None = None) -> pd.DataFrame:
    """A row for each checkpoint of the cells: as `study_points`, and `images`, `flops`.

    Args:
        runs: the study.
        most: checkpoints of a run; None: all.
    """
    table = runs.checkpoints[runs.checkpoints["reason"] == ""]
    points = _points(runs, table, ["images", "flops"])
    images = sorted(points["images"].unique())
    if most is None or len(images) <= most:
        return points
    ratio = (images[-1] / images[0]) ** (1 / (most - 1))
    wanted = {min(images, key=lambda i, w=images[0] * ratio**k: abs(i - w)) for k in range(most)}  # type: ignore[misc]
    return points[points["images"].isin(wanted)].reset_index(drop=True)


def _points(runs: StudyRuns, table: pd.DataFrame, more: list[str]) -> pd.DataFrame:
    columns = ["variant", "size", "parameters", *more, "seed", runs.study.objective]
    points = table[columns].rename(columns={runs.study.objective: "loss"}).dropna().astype({"variant": str})
    # Variants of one size differ by a gate's few parameters; that is not what the law is about.
    counts = [name for name in ("parameters", "body_parameters") if name in points]
    points = points.sort_values("variant", key=lambda n: n.map(runs.variants.index), kind="stable", ignore_index=True)
    return points.assign(**{n: points.groupby("size")[n].transform("mean").astype(float) for n in counts})


def fit_study(runs: StudyRuns, draws: int = DRAWS) -> StudyFits:
    """Fit what can be fitted.

    Args:
        runs: the study.
        draws: how often seeds are drawn again for an interval.
    """
    points, first, variants = study_points(runs), runs.variants[0], runs.variants
    cases = [(law, points[points["variant"] == variant]) for variant in variants for law in ALONE]
    several = len(variants) > 1
    pooled = _shared(points, POOLED if several else (), draws)
    own = _shared(points, OWN if several else (), draws)
    rows = checkpoint_points(runs, MOST_CHECKPOINTS)
    area = _shared(rows, SURFACES, min(draws, SURFACE_DRAWS))
    largest = float(points["parameters"].max())
    return StudyFits(
        alone=tuple(fit(mine, law) for law, mine in cases),
        held_out=tuple(held_out_error(mine, law) for law, mine in cases),
        pooled=pooled,
        exponent=pooled.number(_exponent(first)) if pooled.found else None,
        body_exponent=_body_exponent(points, pooled.found, first),
        speed_ups={v: pooled.number(_speed_up_of(first, v, largest)) for v in variants[1:]} if pooled.found else {},
        own=own,
        differences={v: own.number(_difference(first, v)) for v in variants[1:]} if own.found else {},
        surface=area,
        exponents={v: _both(area, lambda i, v=v: _exponent(v, i)) for v in variants} if area.found else {},  # type: ignore[misc]
        surface_differences=(
            {v: _both(area, lambda i, v=v: _difference(first, v, i)) for v in variants[1:]} if area.found else {}  # type: ignore[misc]
        ),
        surface_held_out=held_out_error(area.points, area.found.law) if area.found else float("nan"),
        compute=compute(checkpoint_points(runs)) if len(rows) else None,
        slopes=slopes(points),
    )


def _shared(points: pd.DataFrame, laws: Sequence[ScalingLaw], draws: int) -> Shared:
    """The first of some laws that holds, or all of them refused. The second is for losses that do not flatten."""
    paired, tried = grouped(_paired(points)), []
    for law in laws if len(paired) else ():
        tried.append(fit(paired, law))
        if FLAT not in tried[-1].reason:
            break
    refits = refit(paired, tried[-1].law, draws=draws) if tried and tried[-1].status == "ok" else None
    return Shared(tried=tuple(tried), refits=refits, points=paired)


def _paired(points: pd.DataFrame) -> pd.DataFrame:
    """The points of sizes, checkpoints and seeds that every variant has, and seeds that every checkpoint has."""
    keys = [name for name in ("parameters", "images") if name in points]
    counts = points.groupby([*keys, "seed"])["variant"].transform("nunique")
    whole = points[counts == points["variant"].nunique()].reset_index(drop=True)
    if "images" in whole and len(whole):
        seeds = whole.groupby(["parameters", "images"])["seed"].transform("nunique")
        whole = whole[seeds == whole.groupby("parameters")["seed"].transform("nunique")].reset_index(drop=True)
    return whole


def _exponent(variant: str, place: int = 0) -> Callable[[Fit], float]:
    return lambda found: found.exponents[variant][place]


def _difference(first: str, variant: str, place: int = 0) -> Callable[[Fit], float]:
    return lambda found: found.exponents[variant][place] - found.exponents[first][place]


def _both(area: Shared, of: Callable[[int], Callable[[Fit], float]]) -> tuple[Number, Number]:
    return area.number(of(0)), area.number(of(1))


def _body_exponent(points: pd.DataFrame, pooled: Fit | None, first: str) -> float:
    """The pooled exponent where embeddings are not counted."""
    if pooled is None:
        return float("nan")
    body = points.assign(parameters=points["body_parameters"])
    found = fit(grouped(_paired(body)), pooled.law)
    return found.exponents[first][0] if found.status == "ok" else float("nan")


def _speed_up_of(first: str, variant: str, size: float) -> Callable[[Fit], float]:
    def number(found: Fit) -> float:
        losses = (found.predict(name, parameters=size) for name in (variant, first))
        return speed_up(found, *losses)

    return number
