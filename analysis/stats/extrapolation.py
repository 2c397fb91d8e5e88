"""How far a law reaches beyond the sizes that it was fitted to, and slopes, which need no law."""

import itertools

import numpy as np
import pandas as pd

from .fit import fit_law
from .laws import ScalingLaw
from .status import FitStatus


def slopes(points: pd.DataFrame, size: str = "parameters") -> pd.DataFrame:
    """Return the slopes of log loss against log size between neighboring sizes. They need no fit, so two sizes do.

    Returns:
        Columns `variant`, `from`, `to`, `slope`.
    """
    rows = []
    for variant, group in points.groupby("variant", sort=False):
        means = group.groupby(size)["loss"].mean().sort_index()
        for (a, loss_a), (b, loss_b) in itertools.pairwise(means.items()):
            slope = np.log(loss_b / loss_a) / np.log(float(str(b)) / float(str(a)))
            rows.append({"variant": variant, "from": a, "to": b, "slope": slope})
    return pd.DataFrame(rows, columns=["variant", "from", "to", "slope"])


def held_out_error(points: pd.DataFrame, law: ScalingLaw, floor: float = 0.0) -> float:
    """Return the relative error at the largest size of a fit to the other sizes; NaN if that fit is refused.

    Args:
        points: see `fit.fit`.
        law: the form.
        floor: the value at which E is pinned, for a law that does not fit it.
    """
    size = law.inputs[0]
    largest = points[size].max()
    seen, unseen = points[points[size] < largest], points[points[size] == largest]
    smaller = None if seen.empty else fit_law(seen, law, floor=floor)
    if smaller is None or smaller.status is not FitStatus.OK:
        return float("nan")
    rows = unseen[["variant", *law.inputs]].to_dict("records")
    predicted = np.array([smaller.predict(**row) for row in rows])
    return float(np.mean(np.abs(predicted / unseen["loss"].to_numpy(float) - 1)))
