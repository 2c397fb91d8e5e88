"""Which points can be fitted, and whether they can tell a law's parameters apart: what is refused before any fit."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .laws import Fit, ScalingLaw, free_parameters
from .status import Refusal

VALUES_FOR_IRREDUCIBLE_LOSS = 4
"""With fewer sizes, or amounts of data, the irreducible loss and the power cannot be told apart, however many variants
share them."""
VALUES_FOR_POWER = 3
ONE_VARIANT = "all"
"""Name of the variant of points that have no column `variant`."""


def usable(points: pd.DataFrame, law: ScalingLaw) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the points that can be fitted, and a sentence for each kind that cannot.

    Points without a column `variant` are of one variant.

    Raises:
        ValueError: columns are missing, or no point is left.
    """
    if "variant" not in points:
        points = points.assign(variant=ONE_VARIANT)
    needed = ["loss", *law.inputs]
    missing = [name for name in needed if name not in points]
    if missing:
        raise ValueError(f"the points have no column {', '.join(missing)}")
    values = points[["loss", *law.inputs]].to_numpy(float)
    finite = np.isfinite(values).all(axis=1)
    positive = finite & (values > 0).all(axis=1)
    kinds = {"finite (runs that diverged or did not end)": ~finite, "positive": finite & ~positive}
    dropped = [f"{chosen.sum()} points that are not {kind}" for kind, chosen in kinds.items() if chosen.any()]
    kept = points[positive]
    if kept.empty:
        raise ValueError(f"no point is left to fit: {'; '.join(dropped) or 'there were none'}")
    return kept, tuple(dropped)


def not_identifiable(points: pd.DataFrame, law: ScalingLaw, names: Sequence[str]) -> tuple[Refusal, str] | None:
    """Return why the points cannot tell the parameters apart, as code and sentence; None if they can."""
    fewest = points.groupby("variant")[list(law.inputs)].nunique().min()
    needed = VALUES_FOR_IRREDUCIBLE_LOSS if law.irreducible_loss and not law.line else VALUES_FOR_POWER
    for name, refusal in zip(law.inputs, (Refusal.TOO_FEW_SIZES, Refusal.TOO_FEW_DATA_AMOUNTS), strict=False):
        if fewest[name] < needed:
            return refusal, f"it needs {needed} values of {name}, and there are {fewest[name]}"
    free = free_parameters(law, len(names))
    if len(points) <= free:
        return Refusal.TOO_FEW_POINTS, f"it has {free} free parameters, and there are {len(points)} points"
    return None


def refused(law: ScalingLaw, names: Sequence[str], refusal: Refusal, reason: str) -> Fit:
    """Make the result of a fit that the points do not allow."""
    nothing: dict[str, tuple[float, ...]] = {name: (float("nan"),) * len(law.inputs) for name in names}
    return Fit(
        law=law,
        refusal=refusal,
        reason=reason,
        variants=tuple(names),
        irreducible_loss=float("nan"),
        coefficients=nothing,
        exponents=nothing,
        num_points=0,
    )
