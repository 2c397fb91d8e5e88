"""What a study's cells say of a law: each variant alone, and all of them pooled, with refusals in words."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from analysis.intervals import Interval, held_out_error, interval, refit, slopes, speed_up
from analysis.laws import Fit, log_line, power
from analysis.runs import StudyRuns
from analysis.scaling import fit

POOLED = (power(share="offset and exponents"), power(offset=False, share="offset and exponents"))
"""The second is for losses that do not flatten: it is taken where the first is refused."""
ALONE = (power(), power(offset=False), log_line())
LEVEL, DRAWS = 0.9, 200


@dataclass(frozen=True, kw_only=True)
class StudyFits:
    """All fits of a study's objective against parameters."""

    alone: tuple[Fit, ...]
    held_out: tuple[float, ...]
    """Relative error of each of them at the largest size, unseen; NaN where it cannot be said."""
    pooled: tuple[Fit, ...]
    """All variants with one offset and one exponent; if that is refused, with one exponent. Empty with one variant."""
    exponent: Interval | None
    """Of the pooled exponent."""
    speed_ups: dict[str, tuple[float, Interval]]
    """Variant -> how many times its size the first variant needs for its loss (at the largest size), with interval."""
    slopes: pd.DataFrame
    """Of `analysis.intervals.slopes`."""


def study_points(runs: StudyRuns) -> pd.DataFrame:
    """A row for each cell: `variant`, `parameters`, `seed`, `loss` (the study's objective)."""
    columns = ["variant", "size", "parameters", "seed", runs.study.objective]
    points = runs.cells[columns].rename(columns={runs.study.objective: "loss"})
    # Variants of one size differ by a gate's few parameters; that is not what the law is about.
    return points.assign(parameters=points.groupby("size")["parameters"].transform("mean").astype(float))


def fit_study(runs: StudyRuns, draws: int = DRAWS) -> StudyFits:
    """Fit what can be fitted.

    Args:
        runs: the study.
        draws: how often seeds are drawn again for an interval.
    """
    points = study_points(runs)
    cases = [(law, points[points["variant"] == variant]) for variant in runs.variants for law in ALONE]
    alone = tuple(fit(mine, law) for law, mine in cases)
    held_out = tuple(held_out_error(mine, law) for law, mine in cases)
    pooled: tuple[Fit, ...] = ()
    exponent: Interval | None = None
    faster: dict[str, tuple[float, Interval]] = {}
    for law in POOLED if len(runs.variants) > 1 else ():
        pooled = (*pooled, fit(points, law))
        if pooled[-1].status == "ok":
            exponent, faster = _intervals(points, pooled[-1], runs.variants, draws)
            break
    return StudyFits(
        alone=alone, held_out=held_out, pooled=pooled, exponent=exponent, speed_ups=faster, slopes=slopes(points)
    )


def _intervals(
    points: pd.DataFrame, pooled: Fit, variants: list[str], draws: int
) -> tuple[Interval, dict[str, tuple[float, Interval]]]:
    """The interval of the exponent, and each variant's worth against the first with its own."""
    refits, first, largest = refit(_paired(points), pooled.law, draws=draws), variants[0], points["parameters"].max()
    numbers = {variant: _speed_up_of(first, variant, float(largest)) for variant in variants[1:]}
    faster = {variant: (number(pooled), interval(refits, number, LEVEL)) for variant, number in numbers.items()}
    return interval(refits, lambda found: found.exponents[first][0], LEVEL), faster


def _paired(points: pd.DataFrame) -> pd.DataFrame:
    """The points of sizes and seeds that every variant has."""
    counts = points.groupby(["parameters", "seed"])["variant"].transform("nunique")
    return points[counts == points["variant"].nunique()].reset_index(drop=True)


def _speed_up_of(first: str, variant: str, size: float) -> Callable[[Fit], float]:
    def number(found: Fit) -> float:
        losses = (found.predict(name, parameters=size) for name in (variant, first))
        return speed_up(found, *losses)

    return number


def fit_table(fits: StudyFits) -> pd.DataFrame:
    """A row for each fit: numbers of those that may be used, and the reason of the others."""
    every = [*zip(fits.alone, fits.held_out, strict=True)]
    every += [(found, float("nan")) for found in fits.pooled]
    return pd.DataFrame([_row(found, error) for found, error in every])


def _row(found: Fit, held_out: float) -> dict[str, object]:
    usable = found.status == "ok"
    name = found.variants[0]
    exponents = found.exponents[name]
    return {
        "variant": name if len(found.variants) == 1 else "all, pooled",
        "law": found.law.name,
        "status": found.status,
        "exponent": exponents[0] if usable and exponents else float("nan"),
        "E": found.offset if usable and found.law.offset and not found.law.line else float("nan"),
        "AICc": found.aicc if usable else float("nan"),
        "error at the largest size": held_out,
        "points": found.used,
    }


def fit_sentences(fits: StudyFits) -> list[str]:
    """What may be said of the pooled laws, and what may not."""
    if not fits.pooled:
        return ["- one variant: nothing is pooled."]
    lines = [f"- {found.law.name}: {found.status}; {found.reason}." for found in fits.pooled if found.status != "ok"]
    found = fits.pooled[-1]
    if found.status != "ok":
        return lines
    assert fits.exponent is not None
    alpha = next(iter(found.exponents.values()))[0]
    offset = f"; E {found.offset:.4f}" if found.law.offset else ""
    lines.append(f"- {found.law.name}, all variants: alpha {alpha:.3f}, {_words(fits.exponent)}{offset}.")
    for variant, (factor, ends) in fits.speed_ups.items():
        unresolved = not ends.reason and ends.low <= 1 <= ends.high
        verdict = ": not resolved" if unresolved else ""
        lines.append(f"- {variant} is worth {factor:.2f} times the parameters, {_words(ends)}{verdict}.")
    return lines


def _words(ends: Interval) -> str:
    if ends.reason:
        return f"without an interval ({ends.reason})"
    return (
        f"{ends.level:.0%} interval {ends.low:.3f} to {ends.high:.3f} ({ends.failed:.0%} of {ends.draws} refits failed)"
    )
