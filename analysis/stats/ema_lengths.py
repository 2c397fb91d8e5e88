"""Losses and image quality against the length of the averaged weights, and the best length of each variant.

A length that is chosen by the losses that it is then judged by looks better than it is. Here the length of a seed is
the best one of the other seeds, and is judged by this seed.
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from lina_lab.config.ema import length_of

from ..load.runs import StudyRuns
from .paired import CONFIDENCE

DECAY = {"val/loss": "val/loss_ema"}
"""Metric at a length -> the same of the exponential average, where the name differs."""
POINT = ["variant", "size", "metric"]
"""Columns that identify a curve over lengths."""
MEANS = ["value", "low", "high", "seeds"]
"""A mean over seeds, the ends of its 95% confidence interval (Student's t; NaN for one seed), and their number."""

GAINS = ["gain", "gain low", "gain high"]
"""The same of the difference to the exponential average, paired by seed."""


def length_values(runs: StudyRuns) -> pd.DataFrame:
    """Return what was measured at each length.

    Returns:
        A row for each cell, metric and length: POINT, `seed`, `length`, `value`, `decay` (the same of the exponential
        average, NaN where it was not measured). Empty where nothing was.
    """
    parts = []
    for name in runs.cells.columns:
        found = length_of(str(name))
        if found is None:
            continue
        metric, length = found
        other = runs.cells.get(DECAY.get(metric, metric))
        keys = runs.cells[["variant", "size", "seed"]]
        parts.append(keys.assign(metric=metric, length=length, value=runs.cells[name], decay=other))
    columns = [*POINT, "seed", "length", "value", "decay"]
    every = pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
    return every[np.isfinite(every["value"].astype(float))].reset_index(drop=True)


def length_curves(values: pd.DataFrame) -> pd.DataFrame:
    """Return means over seeds at each length, of the values and of their differences to the exponential average.

    Args:
        values: see `length_values`.

    Returns:
        POINT, `length`, MEANS, and `gain`, `gain low`, `gain high` (value minus that of the exponential average).
    """
    rows = []
    for keys, mine in values.groupby([*POINT, "length"], sort=False):
        named = dict(zip(GAINS, _mean(mine["value"] - mine["decay"])[:3], strict=True))
        rows.append(
            {**_named(keys, [*POINT, "length"]), **dict(zip(MEANS, _mean(mine["value"]), strict=True)), **named}
        )
    return pd.DataFrame(rows, columns=[*POINT, "length", *MEANS, *GAINS])


def chosen_on_others(values: pd.DataFrame) -> pd.DataFrame:
    """Return each seed's value at the length that is best for the other seeds of its variant and size.

    Args:
        values: see `length_values`; lower ones are better.

    Returns:
        POINT, `seed`, `length` (chosen on the others), `value`, `decay`. No rows for a curve with one seed.
    """
    rows = []
    for keys, mine in values.groupby(POINT, sort=False):
        wide, decay = _by_seed(mine), mine.groupby("seed")["decay"].first()
        if len(wide) < 2:
            continue
        table = wide.to_numpy(float)
        others = (table.sum(axis=0) - table) / (len(table) - 1)
        best = others.argmin(axis=1)
        for place, (seed, index) in enumerate(zip(wide.index, best, strict=True)):
            found = {"seed": seed, "length": wide.columns[index], "value": table[place, index], "decay": decay[seed]}
            rows.append({**_named(keys, POINT), **found})
    return pd.DataFrame(rows, columns=[*POINT, "seed", "length", "value", "decay"])


def best_lengths(values: pd.DataFrame) -> pd.DataFrame:
    """Return the best length of each variant and size, and what it gives.

    Args:
        values: see `length_values`; lower ones are better.

    Returns:
        POINT, `length` (best mean over all seeds), `looks` (lengths that were tried), `edge` (`shortest`, `longest` or
        empty), MEANS and GAINS at that length, `others` and `gain others` (means of `chosen_on_others`, which do not
        flatter the choice; NaN for one seed). The intervals have Bonferroni's correction for the looks, so that they
        cover however the length was chosen. Student's t over the values of `chosen_on_others` would not cover: these
        depend on each other by the choices that they share.
    """
    held = chosen_on_others(values)
    others = held.assign(gain=held["value"] - held["decay"]).groupby(POINT, sort=False)[["value", "gain"]].mean()
    others = others.rename(columns={"value": "others", "gain": "gain others"})
    rows = []
    for keys, mine in values.groupby(POINT, sort=False):
        wide, decay = _by_seed(mine), mine.groupby("seed")["decay"].first()
        looks, place = wide.shape[1], int(wide.mean(axis=0).to_numpy().argmin())
        chosen = wide.iloc[:, place]
        edge = "" if looks < 2 or 0 < place < looks - 1 else "longest" if place else "shortest"
        rows.append(
            {
                **_named(keys, POINT),
                **{"length": wide.columns[place], "looks": looks, "edge": edge},
                **dict(zip(MEANS, _mean(chosen, looks), strict=True)),
                **dict(zip(GAINS, _mean(chosen - decay, looks)[:3], strict=True)),
            }
        )
    best = pd.DataFrame(rows, columns=[*POINT, "length", "looks", "edge", *MEANS, *GAINS])
    return best.merge(others.reset_index(), on=POINT, how="left")


def _by_seed(curve: pd.DataFrame) -> pd.DataFrame:
    """Return seeds x lengths, the shortest first; a seed that lacks a length is left out."""
    return curve.set_index(["seed", "length"])["value"].unstack("length").sort_index(axis=1).dropna()


def _mean(values: "pd.Series[float]", looks: int = 1) -> tuple[float, float, float, int]:
    """Return MEANS of one group, with an interval that is corrected for so many looks (Bonferroni)."""
    known = values.dropna().to_numpy(float)
    count = len(known)
    if count == 0:
        return np.nan, np.nan, np.nan, 0
    mean = float(known.mean())
    if count < 2:
        return mean, np.nan, np.nan, count
    reach = float(stdtrit(count - 1, 1 - (1 - CONFIDENCE) / 2 / looks) * known.std(ddof=1) / np.sqrt(count))
    return mean, mean - reach, mean + reach, count


def _named(keys: Any, names: list[str]) -> dict[str, Any]:
    return dict(zip(names, keys, strict=True))
