"""Fits of a study as a table and in sentences: numbers of the fits that hold, and reasons for the others."""

import math
from collections.abc import Mapping

import pandas as pd

from lina_lab.config.factors import LawKind

from ..stats.bootstrap import ConfidenceInterval
from ..stats.compute import ComputeAnalysis
from ..stats.laws import Fit
from ..stats.status import FitStatus
from ..stats.study_fits import Estimate, PooledFit, StudyFits
from .narrative import count
from .tables import records

NAN = math.nan
HELD_OUT = "error at the largest size"
SIZE_FACTOR, FROM_FIRST = "size factor", "minus the first variant's"
ESTIMATE_COLUMNS = ["quantity", "variant", "estimate", "90% CI low", "90% CI high", "note"]


def fit_table(fits: StudyFits) -> pd.DataFrame:
    """Return a row for each law and variant, with 90% confidence intervals of exponents where there are any.

    Returns:
        `variant`, `law`, `status`, `alpha`, `alpha low`, `alpha high`, the same of `beta`, `E`, `AICc`, the relative
        error at the largest size when it is left out of the fit, `points`.
    """
    rows = [_row(f, f.variants[0], error) for f, error in zip(fits.separate, fits.held_out_errors, strict=True)]
    for found in fits.shared.attempts:
        rows.append(_row(found, "all", NAN, fits.exponent if found is fits.shared.fit else None))
    for found in fits.own.attempts:
        names = found.variants if found is fits.own.fit else ("all",)
        rows += [_row(found, name, NAN) for name in names]
    for found in fits.surface.attempts:
        if found is fits.surface.fit:
            error, exponents = fits.surface_held_out_error, fits.surface_exponents
            rows += [_row(found, name, error, *exponents[name]) for name in found.variants]
        else:
            rows.append(_row(found, "all", NAN))
    if fits.compute is not None:
        rows += [_row(found, f"{variant}, frontier", NAN) for variant, found in fits.compute.frontier_laws.items()]
    return pd.DataFrame(rows)


def _row(found: Fit, name: str, held_out: float, *estimates: Estimate | None) -> dict[str, object]:
    holds = found.status is FitStatus.OK
    exponents = [*found.exponents.get(name, found.exponents[found.variants[0]]), NAN, NAN] if holds else [NAN, NAN]
    row: dict[str, object] = {"variant": name, "law": found.law.name, "status": str(found.status)}
    for index, letter in enumerate(("alpha", "beta")):
        estimate = estimates[index] if index < len(estimates) else None
        ends = (NAN, NAN) if estimate is None else (estimate.interval.low, estimate.interval.high)
        row |= {letter: exponents[index], f"{letter} low": ends[0], f"{letter} high": ends[1]}
    return row | {
        "E": found.irreducible_loss if holds and found.law.irreducible_loss and not found.law.line else NAN,
        "AICc": found.aicc if holds else NAN,
        HELD_OUT: held_out,
        "points": found.num_points,
    }


def estimate_table(fits: StudyFits) -> pd.DataFrame:
    """Return a row for each number that the pooled fits estimate, with its 90% confidence interval.

    Returns:
        `quantity`, `variant`, `estimate`, `90% CI low`, `90% CI high`, `note` (why there is no interval, and how many
        refits failed). No rows where no pooled law holds.
    """
    rows: list[tuple[str, str, Estimate]] = []
    if fits.exponent is not None:
        rows.append(("alpha, shared exponents", "all", fits.exponent))
    rows += [(SIZE_FACTOR, variant, factor) for variant, factor in fits.size_factors.items()]
    rows += [(f"alpha, {FROM_FIRST}", variant, found) for variant, found in fits.exponent_differences.items()]
    for index, letter in enumerate(("alpha", "beta")):
        rows += [(f"{letter} of L(N, D)", variant, pair[index]) for variant, pair in fits.surface_exponents.items()]
        pairs = fits.surface_differences.items()
        rows += [(f"{letter} of L(N, D), {FROM_FIRST}", variant, pair[index]) for variant, pair in pairs]
    return pd.DataFrame([_estimate_row(*row) for row in rows], columns=ESTIMATE_COLUMNS)


def _estimate_row(quantity: str, variant: str, estimate: Estimate) -> tuple[object, ...]:
    ends = estimate.interval
    failed = f"{ends.failed:.0%} of refits failed" if ends.failed else ""
    return (quantity, variant, estimate.value, ends.low, ends.high, ends.reason or failed)


def fit_sentences(fits: StudyFits) -> list[str]:
    """Say what the pooled fits show, and what the points do not allow."""
    lines = [*_shared(fits), *_refusals(fits.own), *_surface(fits), *_compute(fits.compute)]
    pooled = (fits.shared, fits.own, fits.surface)
    bootstraps = [part.bootstrap for part in pooled if part.bootstrap is not None]
    if bootstraps:
        numbers = sorted({len(bootstrap.resampled) for bootstrap in bootstraps})
        resamples = " or ".join(map(str, numbers))
        lines.insert(0, f"CI: 90% percentile interval of {resamples} bootstrap refits over seeds and blocks.")
    if fits.size_factors and fits.shared.fit is not None:
        first = fits.shared.fit.variants[0]
        lines.append(f"Size factor: how many times as many parameters {_quoted(first)} needs for a variant's loss.")
    if any(part.fit is None for part in pooled):
        lines.append("Where no law can be fitted, look at the slopes between neighboring sizes.")
    return lines


def _refusals(pooled: PooledFit) -> list[str]:
    return [
        f"{found.law.name}: {found.status}, {found.reason}."
        for found in pooled.attempts
        if found.status is not FitStatus.OK
    ]


def _shared(fits: StudyFits) -> list[str]:
    if LawKind.SIZE in fits.confounded:
        return []
    if not fits.shared.attempts:
        return ["There is one variant, so there is nothing to pool."]
    lines, found = _refusals(fits.shared), fits.shared.fit
    if found is None or fits.exponent is None:
        return lines
    body = "" if math.isnan(fits.body_exponent) else f"; {fits.body_exponent:.3f} if embeddings are not counted"
    alpha = f"alpha {fits.exponent.value:.3f} ({interval_text(fits.exponent.interval)}{body})"
    return [*lines, f"{found.law.name}, all variants: {alpha}{_irreducible_loss(found)}."]


def _surface(fits: StudyFits) -> list[str]:
    lines, found = _refusals(fits.surface), fits.surface.fit
    if not fits.surface.attempts and LawKind.SIZE_AND_DATA not in fits.confounded:
        lines.append("The variants have no checkpoints in common: no law of parameters and images is fitted.")
    if found is None:
        return lines
    error = fits.surface_held_out_error
    held_out = "" if math.isnan(error) else f", error {error:.1%} at the largest size when it is left out"
    points = count(found.num_points, "checkpoint")
    return [*lines, f"{found.law.name}: {points}{_irreducible_loss(found)}{held_out}."]


def _compute(found: ComputeAnalysis | None) -> list[str]:
    if found is None:
        return []
    texts: dict[str, str] = {}
    for row in records(found.size_exponents) if found.comparable else ():
        budgets = count(row["budgets"], "compute budget")
        grows = f"grows as C^{row['exponent']:.2f} ({budgets})"
        texts[row["variant"]] = f"unknown, {row['reason']}" if math.isnan(row["exponent"]) else grows
    lines = [f"Best size at equal FLOPs: unknown, {found.reason}."] if not found.comparable else []
    lines += _by_text("Best size at equal FLOPs", texts, len(found.frontier_laws))
    laws = found.frontier_laws.items()
    refused = {v: f"{law.status}, {law.reason}" for v, law in laws if law.status is not FitStatus.OK}
    return [*lines, *_by_text("Law of the frontier", refused, len(found.frontier_laws))]


def _by_text(subject: str, texts: Mapping[str, str], number: int) -> list[str]:
    """Say once what holds for several variants; `number` is how many there are."""
    groups: dict[str, list[str]] = {}
    for variant, text in texts.items():
        groups.setdefault(text, []).append(variant)
    return [
        f"{subject}, {'all variants' if len(names) == number > 1 else ' and '.join(map(_quoted, names))}: {text}."
        for text, names in groups.items()
    ]


def _quoted(variant: str) -> str:
    return f"“{variant}”"


def _irreducible_loss(found: Fit) -> str:
    return f", E {found.irreducible_loss:.4f}" if found.law.irreducible_loss else ""


def interval_text(ends: ConfidenceInterval) -> str:
    """Write a confidence interval, or why there is none."""
    return f"CI {ends.low:.3f} to {ends.high:.3f}" if ends.known else f"no CI: {ends.reason}"
