"""Fits of a study as a table and in sentences: numbers of the laws that hold, and reasons for the others."""

import math
from collections.abc import Mapping

import pandas as pd

from ..stats.compute import ComputeAnalysis
from ..stats.irreducible import EStatus, LawNumber, SeedwiseLaw
from ..stats.seedwise import Estimate
from ..stats.status import FitStatus
from ..stats.study_fits import StudyFits
from ..stats.verdicts import PrimaryVerdict
from .tables import EMPTY, count, records

NAN = math.nan
WORTH = "worth in "
"""Start of the quantity of a multiplier in the table of estimates."""
HELD_OUT = "error at the largest size"
ENDS = ("90% CI low", "90% CI high")
ESTIMATE_COLUMNS = [
    "quantity",
    "variant",
    "baseline",
    "E = 0",
    *(f"{end} (E = 0)" for end in ENDS),
    "E free",
    *(f"{end} (E free)" for end in ENDS),
    "E",
    "seeds",
    "note",
]


def fit_table(fits: StudyFits) -> pd.DataFrame:
    """Return a row for each form of a law in N, fitted to one variant alone.

    Returns:
        `variant`, `law`, `status`, `alpha`, `E`, `AICc above the best` (of the forms of the variant, which are fitted
        to the same points), the relative error at the largest size when it is left out of the fit, `points`. A law with
        E has numbers only where the profile identifies E.
    """
    rows = []
    for found, error in zip(fits.forms, fits.held_out_errors, strict=True):
        (variant,) = found.variants
        profile, with_constant = fits.alone[variant].profile, found.law.irreducible_loss and not found.law.line
        decided = not with_constant or (profile is not None and profile.status is EStatus.IDENTIFIED)
        holds = found.status is FitStatus.OK
        rows.append(
            {
                "variant": variant,
                "law": found.law.name,
                "status": str(found.status) if decided or not holds else f"E {_e_text(fits.alone[variant])}",
                "alpha": found.exponents[variant][0] if holds and decided and not found.law.line else NAN,
                "E": found.irreducible_loss if holds and decided and with_constant else NAN,
                "AICc above the best": found.aicc if holds else NAN,
                HELD_OUT: error,
                "points": found.num_points,
            }
        )
    table = pd.DataFrame(rows)
    if len(table):
        table["AICc above the best"] -= table.groupby("variant")["AICc above the best"].transform("min")
    return table


def estimate_table(fits: StudyFits) -> pd.DataFrame:
    """Return a row for each number of a law, with E = 0 and with E by its profile; see ESTIMATE_COLUMNS.

    `E` says which values of E are inside the profile, and `note` why there is no interval. No rows where no law holds.
    """
    rows: list[tuple[object, ...]] = []

    def add(quantity: str, variant: str, baseline: str, law: SeedwiseLaw | None, number: LawNumber) -> None:
        assert law is not None
        ends = [(e.value, e.low, e.high) for e in (number.pinned, number.free)]
        note = number.pinned.reason or number.free.reason
        rows.append((quantity, variant, baseline, *ends[0], *ends[1], _e_text(law), number.pinned.seeds, note))

    if fits.exponent is not None:
        add("alpha, shared", "all", "", fits.shared, fits.exponent)
    for (treatment, baseline), number in fits.exponent_differences.items():
        add("alpha, difference", treatment, baseline, fits.own, number)
    for index, letter in enumerate(("alpha", "beta")):
        for variant, pair in fits.surface_exponents.items():
            add(f"{letter} of L(N, D)", variant, "", fits.surface, pair[index])
        for (treatment, baseline), pair in fits.surface_differences.items():
            add(f"{letter} of L(N, D), difference", treatment, baseline, fits.surface, pair[index])
    for found in fits.multipliers:
        law = fits.shared if found.resource == "parameters" else fits.surface
        add(f"{WORTH}{found.resource}", found.treatment, found.baseline, law, found)
    return pd.DataFrame(rows, columns=ESTIMATE_COLUMNS)


def fit_sentences(fits: StudyFits) -> list[str]:
    """Say what the laws show, and what the points do not allow."""
    pooled = [law for law in (fits.shared, fits.own, fits.surface) if law is not None]
    lines = list(dict.fromkeys(f"{line}." for law in pooled for line in law.ladders.left_out))
    seeds = max((law.ladders.seeds for law in pooled), default=0)
    if seeds > 1:
        lines.insert(0, f"CI: 90%, Student's t over {seeds} seeds, each of which is fitted by itself.")
    elif seeds == 1:
        lines.insert(0, "There is one seed, so no number of a law has an interval.")
    if fits.shared is None and "size" not in fits.confounded:
        lines.append("There is one variant, so there is nothing to pool.")
    if fits.exponent is not None:
        body = fits.body_exponent
        assert fits.shared is not None
        at = f"{fits.shared.best:.3g}"
        more = f"; {body.value:.3f} at E = {at} if embeddings are not counted" if body and body.value > 0 else ""
        lines.append(f"{_law_text(fits.shared)}: alpha {number_text(fits.shared, fits.exponent)}{more}.")
    lines += [f"{_law_text(law)}." for law in pooled if not (law is fits.shared and fits.exponent is not None)]
    reasons = [law.profile.reason for law in pooled if law.profile is not None and law.profile.reason]
    lines += [f"E is undetermined whatever the losses are: {reason}." for reason in dict.fromkeys(reasons)]
    if fits.surface is None and "size_and_data" not in fits.confounded:
        lines.append("There are no checkpoints, so no law of parameters and images is fitted.")
    if not math.isnan(fits.surface_held_out_error):
        lines.append(
            f"The law in N and D misses the largest size by {fits.surface_held_out_error:.1%} if it is left out."
        )
    if any(not law.holds for law in pooled):
        lines.append("Where no law can be fitted, look at the slopes between neighboring sizes.")
    return [*lines, *_compute(fits.compute)]


def multiplier_sentences(fits: StudyFits, verdict: PrimaryVerdict | None) -> list[str]:
    """Say what a multiplier is, and what it is for the variants of the primary comparison."""
    lines = [
        "X is worth m times the parameters (images, FLOPs) of Y: Y needs m times as many to reach the loss of X. Above "
        "1, X is better. In images and FLOPs at the largest size and the last checkpoint that all variants have.",
        "E = 0 and E free stand side by side, because E decides how dear the last bit of loss is.",
    ]
    pair = set() if verdict is None else {verdict.treatment, verdict.baseline}
    return lines + [
        f"{_quoted(found.treatment)} is worth {_times(found.pinned)} the {found.resource} of {_quoted(found.baseline)} "
        f"at E = 0, and {_times(found.free)} with E free."
        for found in fits.multipliers
        if {found.treatment, found.baseline} == pair and not math.isnan(found.pinned.value)
    ]


def compact(estimates: pd.DataFrame, *, multipliers: bool) -> pd.DataFrame:
    """Return the table of estimates as a page shows it: a number and its interval in one cell.

    Args:
        estimates: see `estimate_table`.
        multipliers: the rows that are multipliers, or the others.
    """
    chosen = estimates[estimates["quantity"].str.startswith(WORTH) == multipliers]
    rows, lacking = [], chosen["E = 0"].isna() & chosen["E free"].isna()
    # Where no variant has a number, it is said once.
    nowhere = lacking.groupby(chosen["quantity"]).transform("all")
    chosen = chosen.assign(
        variant=chosen["variant"].mask(nowhere, "all"), baseline=chosen["baseline"].mask(nowhere, "")
    )
    for row in records(chosen.drop_duplicates(["quantity", "variant", "baseline"])):
        cells = {name: row[name] for name in ("quantity", "variant", "baseline")}
        for kind in ("E = 0", "E free"):
            value, low, high = (row[name] for name in (kind, *(f"{end} ({kind})" for end in ENDS)))
            ends = "" if math.isnan(low) else f" ({_digits(low)} to {_digits(high)})"
            cells[f"{kind} (90% CI)"] = f"{_digits(value)}{ends}"
        rows.append(cells | {"E": row["E"], "note": row["note"] or None})
    return pd.DataFrame(rows).dropna(axis="columns", how="all")


def _digits(value: float) -> str:
    if math.isnan(value):
        return EMPTY
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}"


def _times(estimate: Estimate) -> str:
    if not estimate.known:
        return f"{estimate.value:.3g} times (no CI: {estimate.reason})"
    return f"{estimate.value:.3g} times (CI {estimate.low:.3g} to {estimate.high:.3g})"


def _law_text(law: SeedwiseLaw | None) -> str:
    assert law is not None
    if not law.holds:
        assert law.refusal is not None
        return f"{law.law.name}: {law.refusal.status}, {law.reason}"
    return f"{law.law.name}: E {_e_text(law)}"


def _e_text(law: SeedwiseLaw) -> str:
    """Say which values of E are inside the profile."""
    found = law.profile
    if found is None:
        return "unknown"
    if found.status is EStatus.IDENTIFIED:
        return f"{found.best:.4g} (CI {found.low:.4g} to {found.high:.4g})"
    if found.status is EStatus.ONLY_ZERO:
        return f"below {found.high:.2g}"
    return f"undetermined, 0 to {found.high:.2g}"


def number_text(law: SeedwiseLaw | None, number: LawNumber) -> str:
    """Write a number of a law: as a range over E where E is undetermined."""
    assert law is not None
    assert law.profile is not None
    if law.profile.status is not EStatus.UNDETERMINED:
        return f"{number.free.value:.3f} ({interval_text(number.free)})"
    ends = f"{number.at_low:.3f} at E = 0 to {number.at_high:.3f} at E = {law.profile.high:.2g}"
    return f"{ends} ({interval_text(number.free)})"


def interval_text(estimate: Estimate) -> str:
    """Write a confidence interval, or why there is none."""
    return f"CI {estimate.low:.3f} to {estimate.high:.3f}" if estimate.known else f"no CI: {estimate.reason}"


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
