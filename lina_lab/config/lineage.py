"""The training of cells together with that of all they started from, in the sentences of `lina plan` and reports."""

import math
from collections.abc import Iterator, Mapping, Sequence

EQUAL = 0.01
"""Share by which FLOPs that are called equal may differ: budgets are whole images."""
WHAT = "Training FLOPs with all that a cell started from"


def lineage_sentences(totals: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """Say whether the variants of a study with stages took equal FLOPs, their sources included; a sentence each.

    Args:
        totals: size -> variant -> the FLOPs of its cells and of all that these started from; NaN where a source is not
            a cell of the study.
    """
    return list(_sentences(totals))


def _sentences(totals: Mapping[str, Mapping[str, Sequence[float]]]) -> Iterator[str]:
    for size, variants in totals.items():
        unknown = [name for name, found in variants.items() if any(math.isnan(value) for value in found)]
        known = {name: found for name, found in variants.items() if name not in unknown}
        if unknown:
            yield f"{WHAT} are not known at {size} for {_listed(unknown)}: the source is not a cell of this study."
        low = min((min(found) for found in known.values()), default=math.nan)
        high = max((max(found) for found in known.values()), default=math.nan)
        if len(known) < 2:
            continue
        if high <= low * (1 + EQUAL):
            yield f"{WHAT} are equal at {size} within {100 * (high / low - 1):.1g}%: {high:.3g}."
        else:
            each = ", ".join(f"“{name}” {_between(found)}" for name, found in known.items())
            yield f"{WHAT} differ at {size}: {each}."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"“{name}”" for name in names)


def _between(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"
