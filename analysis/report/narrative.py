"""Verdicts in sentences: direction, size, interval, evidence, and "not resolved" where it is not."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..load.runs import StudyRuns
from ..stats.budgets import NAMES, View, audit
from .tables import records

LOWER_HIGHER, FALLS_RISES = ("lower", "higher"), ("it falls", "it rises")
PAIRING = (
    "Paired by seed: both sides saw the same images, masks and noise. Intervals: Student's t over the seeds. The block "
    "standard error is the noise within the runs; where it is far below the interval, seeds are what limits the answer."
)


def audit_sentences(runs: StudyRuns, views: Sequence[View]) -> list[str]:
    """What moved together with size, and what each view may therefore be said to show."""
    found = audit(runs)
    if not found:
        return ["Nothing that was looked at moved together with size: " + ", ".join(NAMES.values()) + "."]
    lines = [f"- {name} moved together with size: {values}" for name, values in found.items()]
    lines += [f"- {view.title}" for view in views]
    return lines


def overall_sentences(differences: pd.DataFrame, metric: str) -> list[str]:
    """One sentence for each comparison: at how many sizes it is resolved, which way, and on what evidence."""
    mine = differences[differences["metric"] == metric]
    lines = []
    for (treatment, control), group in mine.groupby(["treatment", "control"], sort=False):
        below = group["resolved"] & (group["difference"] < 0)
        above = group["resolved"] & (group["difference"] > 0)
        counts = {"lower": int(below.sum()), "higher": int(above.sum())}
        open_ones = len(group) - sum(counts.values())
        parts = [f"{word} at {count} of {len(group)} sizes" for word, count in counts.items() if count]
        parts += [f"not resolved at {open_ones}"] if open_ones and parts else ["not resolved at any size"] * (not parts)
        seeds = sorted(set(group["seeds"]))
        evidence = f"{len(group)} sizes, {seeds[0]}{f' to {seeds[-1]}' if len(seeds) > 1 else ''} seeds"
        lines.append(f"- {treatment} against {control}, {metric}: {', '.join(parts)} (evidence: {evidence}).")
    return lines


def sentences(differences: pd.DataFrame, metric: str) -> list[str]:
    """One sentence for each comparison and size: amount, interval, direction, or that it is not resolved."""
    return [
        f"- size {row['size']}: {row['treatment']} against {row['control']}, {metric} {_verdict(row, LOWER_HIGHER)}"
        for row in records(differences[differences["metric"] == metric])
    ]


def growth_sentences(growth: pd.DataFrame, metric: str) -> list[str]:
    """One sentence for each comparison: how its difference changes from the smallest size to the largest."""
    if growth.empty:
        return ["- one size only: nothing can be said."]
    return [
        f"- {row['treatment']} against {row['control']}, size {row['smallest']} to {row['largest']}: the difference in "
        f"{metric} changes by {_verdict(row, FALLS_RISES)}"
        for row in records(growth[growth["metric"] == metric])
    ]


def _verdict(row: dict[str, Any], words: tuple[str, str]) -> str:
    error = row.get("block_se", float("nan"))
    if row["seeds"] < 2:
        within = f" (block standard error {error:.1g})" if pd.notna(error) else ""
        unknown = "one seed, so no interval: what another seed would give is unknown."
        return f"{row['difference']:+.5f}{within}; {unknown}"
    amount = f"{row['difference']:+.4f}"
    verdict = words[int(row["difference"] > 0)] if row["resolved"] else "not resolved"
    if row["resolved"] and pd.notna(row.get("holm")) and row["holm"] > 0.05:
        verdict += f", alone; among all that is compared here, not (Holm-adjusted p {row['holm']:.2g})"
    return f"{amount} (95% interval {row['low']:+.4f} to {row['high']:+.4f}, {row['seeds']} seeds): {verdict}."
