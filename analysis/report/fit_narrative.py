"""Fits of a study as a table and in sentences: numbers of those that hold, and the reasons of the others."""

import math

import pandas as pd

from ..stats.bootstrap import Interval
from ..stats.compute import Compute
from ..stats.laws import Fit
from ..stats.study_fits import Number, Shared, StudyFits
from .tables import records

NAN = math.nan
POINTS = "error at the largest size"


def fit_table(fits: StudyFits) -> pd.DataFrame:
    """A row for each law and variant, with 90% intervals of exponents where there are any.

    Returns:
        `variant`, `law`, `status`, `alpha`, `alpha low`, `alpha high`, the same of `beta`, `E`, `AICc`, the relative
        error at the largest size of a fit that has not seen it, `points`.
    """
    rows = [_row(found, found.variants[0], error) for found, error in zip(fits.alone, fits.held_out, strict=True)]
    for found in fits.pooled.tried:
        rows.append(_row(found, "all", NAN, fits.exponent if found is fits.pooled.found else None))
    for found in fits.own.tried:
        names = found.variants if found is fits.own.found else ("all",)
        rows += [_row(found, name, NAN) for name in names]
    for found in fits.surface.tried:
        if found is fits.surface.found:
            rows += [_row(found, name, fits.surface_held_out, *fits.exponents[name]) for name in found.variants]
        else:
            rows.append(_row(found, "all", NAN))
    if fits.compute is not None:
        rows += [_row(found, f"{variant}, frontier", NAN) for variant, found in fits.compute.laws.items()]
    return pd.DataFrame(rows)


def _row(found: Fit, name: str, held_out: float, *intervals: Number | None) -> dict[str, object]:
    usable = found.status == "ok"
    exponents = [*found.exponents.get(name, found.exponents[found.variants[0]]), NAN, NAN] if usable else [NAN, NAN]
    row: dict[str, object] = {"variant": name, "law": found.law.name, "status": found.status}
    for place, letter in enumerate(("alpha", "beta")):
        given = intervals[place] if place < len(intervals) else None
        ends = None if given is None else given[1]
        row[letter] = exponents[place]
        row |= {
            f"{letter} low": NAN if ends is None else ends.low,
            f"{letter} high": NAN if ends is None else ends.high,
        }
    return row | {
        "E": found.offset if usable and found.law.offset and not found.law.line else NAN,
        "AICc": found.aicc if usable else NAN,
        POINTS: held_out,
        "points": found.used,
    }


def fit_sentences(fits: StudyFits) -> list[str]:
    """What may be said of laws, and what may not."""
    return [*_pooled(fits), *_own(fits), *_surface(fits), *_compute(fits.compute)]


def _refusals(shared: Shared) -> list[str]:
    return [f"- {found.law.name}: {found.status}; {found.reason}." for found in shared.tried if found.status != "ok"]


def _pooled(fits: StudyFits) -> list[str]:
    if not fits.pooled.tried:
        return ["- one variant: nothing is pooled."]
    lines, found = _refusals(fits.pooled), fits.pooled.found
    if found is None or fits.exponent is None:
        return lines
    offset = f"; E {found.offset:.4f}" if found.law.offset else ""
    alpha, ends = fits.exponent
    body = (
        "" if math.isnan(fits.body_exponent) else f"; without embeddings among the parameters {fits.body_exponent:.3f}"
    )
    lines.append(f"- {found.law.name}, all variants: alpha {alpha:.3f}, {words(ends)}{body}{offset}.")
    for variant, (factor, ends) in fits.speed_ups.items():
        lines.append(f"- {variant} is worth {factor:.2f} times the parameters, {words(ends)}{_unresolved(ends, 1)}.")
    return lines


def _own(fits: StudyFits) -> list[str]:
    lines = _refusals(fits.own)
    for variant, (difference, ends) in fits.differences.items():
        first = fits.own.tried[-1].variants[0]
        lines.append(
            f"- the exponent of {variant} less that of {first}: {difference:+.3f}, {words(ends)}{_unresolved(ends, 0)}."
        )
    return lines


def _surface(fits: StudyFits) -> list[str]:
    lines, found = _refusals(fits.surface), fits.surface.found
    if not fits.surface.tried:
        lines.append("- no checkpoints that all variants and sizes have: no law of parameters and images.")
    if found is None:
        return lines
    error = (
        "" if math.isnan(fits.surface_held_out) else f"; the largest size, unseen, within {fits.surface_held_out:.1%}"
    )
    offset = f", E {found.offset:.4f}" if found.law.offset else ""
    lines.append(f"- {found.law.name}, {found.used} checkpoints{offset}{error}:")
    for variant, (alpha, beta) in fits.exponents.items():
        lines.append(f"- {variant}: alpha {alpha[0]:.3f}, {words(alpha[1])}; beta {beta[0]:.3f}, {words(beta[1])}.")
    for variant, pair in fits.surface_differences.items():
        parts = [
            f"{letter} {difference:+.3f}, {words(ends)}{_unresolved(ends, 0)}"
            for letter, (difference, ends) in zip(("alpha", "beta"), pair, strict=True)
        ]
        lines.append(f"- {variant} less {found.variants[0]}: {'; '.join(parts)}.")
    return lines


def _compute(found: Compute | None) -> list[str]:
    if found is None:
        return []
    lines = [f"- iso-FLOP: {found.reason}."] if found.reason else []
    for row in records(found.growth) if not found.reason else ():
        grows = f"the best size grows as C^{row['exponent']:.2f} ({row['budgets']} amounts of compute)"
        none = f"no exponent of the best size: {row['reason']}"
        lines.append(f"- iso-FLOP, {row['variant']}: {none if row['reason'] else grows}.")
    for variant, law in found.laws.items():
        said = f"{law.status}; {law.reason}"
        if law.status == "ok":
            offset = f", E {law.offset:.4f}" if law.law.offset else ""
            said = f"{law.law.name}, alpha {law.exponents[variant][0]:.3f}{offset} ({law.used} checkpoints)"
        lines.append(f"- frontier, {variant}: {said}.")
    return lines


def words(ends: Interval) -> str:
    """An interval, or why there is none."""
    if ends.reason:
        return f"without an interval ({ends.reason})"
    return (
        f"{ends.level:.0%} interval {ends.low:.3f} to {ends.high:.3f} ({ends.failed:.0%} of {ends.draws} refits failed)"
    )


def _unresolved(ends: Interval, nothing: float) -> str:
    return ": not resolved" if not ends.reason and ends.low <= nothing <= ends.high else ""
