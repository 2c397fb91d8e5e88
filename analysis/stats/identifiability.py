"""Which points can be fitted, and what they cannot tell apart: the refusals that need no fit (`method.md`, Fitting)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .laws import Fit, ScalingLaw, free_parameters

SIZES_FOR_OFFSET = 4
"""Fewer sizes identify no offset beside a power of one variant's."""


def usable(points: pd.DataFrame, law: ScalingLaw) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The points that can be fitted, and a sentence for each kind that cannot.

    Raises:
        ValueError: columns are missing, or no point is left.
    """
    needed = ["variant", "loss", *law.inputs]
    missing = [name for name in needed if name not in points]
    if missing:
        raise ValueError(f"the points have no column {', '.join(missing)}")
    numbers = points[["loss", *law.inputs]].astype(float)
    values = numbers.to_numpy(float)
    finite = np.isfinite(values).all(axis=1)
    positive = finite & (values > 0).all(axis=1)
    dropped = []
    if not finite.all():
        dropped.append(f"{int((~finite).sum())} points that are not finite (runs that diverged or did not end)")
    if (finite & ~positive).any():
        dropped.append(f"{int((finite & ~positive).sum())} points that are not positive")
    kept = points[positive]
    if kept.empty:
        raise ValueError(f"no point is left to fit: {'; '.join(dropped) or 'there were none'}")
    return kept, tuple(dropped)


def not_identifiable(points: pd.DataFrame, law: ScalingLaw, names: Sequence[str]) -> str | None:
    """Why the points cannot tell the parameters apart; None if they can."""
    counts = points.groupby("variant")[list(law.inputs)].nunique()
    size = law.inputs[0]
    fewest = int(counts[size].min())
    alone = law.share != "offset and exponents" or len(names) == 1
    one_input = len(law.inputs) == 1
    needed = SIZES_FOR_OFFSET if law.offset and not law.line and one_input and alone else 3
    if fewest < needed:
        return (
            f"{fewest} values of {size} do not identify {law.name}, which needs {needed}; look at the slopes between "
            "neighbouring sizes, at a pooled law (shared offset and exponents), or at the checkpoints' L(N, D)"
        )
    if len(law.inputs) > 1 and int(counts[law.inputs[1]].min()) < SIZES_FOR_OFFSET:
        return f"{int(counts[law.inputs[1]].min())} values of {law.inputs[1]} do not identify {law.name}"
    if len(points) <= free_parameters(law, len(names)):
        return f"{len(points)} points do not identify {free_parameters(law, len(names))} parameters"
    return None


def refused(law: ScalingLaw, names: Sequence[str], reason: str, *, used: int = 0, dropped: tuple[str, ...] = ()) -> Fit:
    """A fit that the points do not allow."""
    nothing: dict[str, tuple[float, ...]] = {name: (float("nan"),) * len(law.inputs) for name in names}
    return Fit(
        law=law,
        status="not identifiable",
        reason=reason,
        variants=tuple(names),
        offset=float("nan"),
        coefficients=nothing,
        exponents=nothing,
        used=used,
        dropped=dropped,
    )
