"""Variant against variant, paired (`method.md`, Fitting).

Two variants of one size and seed saw the same images, masks, noise levels and noise, step by step, and began from the
same numbers. The difference of their losses is therefore far less noisy than either loss.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from lina_lab.records.runstore import TRAIN_LOSS

from ..load.cells import as_text
from ..load.runs import StudyRuns, variant_fields

BLOCKS = 20
"""Blocks that a run's second half is cut in for its standard error; neighbouring steps are not independent."""
CONFIDENCE = 0.95
COMPARED = ["axis", "treatment", "control", "size", "metric"]
"""Columns that say which difference a row is about."""
MEAN = ["difference", "seed_se", "low", "high", "p", "seeds", "resolved"]
"""Columns of a mean over seeds."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One change of one axis, all other axes but the size's being equal."""

    axis: str
    treatment: str
    """Variant with the change."""
    control: str
    """Variant without it: the axis' first value."""

    @property
    def label(self) -> str:
        """Both variants, for a figure."""
        return f"{self.treatment} − {self.control}"


def comparisons(runs: StudyRuns) -> list[Comparison]:
    """Every change of one axis' first value to another that the cells hold both sides of."""
    fields = variant_fields(runs.study)
    variants = runs.cells.drop_duplicates("variant").set_index("variant")[fields]
    found = []
    for axis in runs.variant_axes:
        varied = list(runs.study.axes[axis])
        first = tuple(as_text(runs.study.axes[axis][field][0]) for field in varied)
        others = [field for field in fields if field not in varied]
        for control, treatment in itertools.permutations(runs.variants, 2):
            a, b = variants.loc[control], variants.loc[treatment]
            if tuple(a[varied]) == first and tuple(b[varied]) != first and (a[others] == b[others]).all():
                found.append(Comparison(axis=axis, treatment=treatment, control=control))
    return found


def block_standard_error(differences: npt.NDArray[np.float64], blocks: int = BLOCKS) -> float:
    """Standard error of the mean of a series whose neighbours are correlated, from means of contiguous blocks.

    Raises:
        ValueError: fewer than two values a block.
    """
    if len(differences) < 2 * blocks:
        raise ValueError(f"{len(differences)} values are too few for {blocks} blocks")
    means = np.array([block.mean() for block in np.array_split(differences, blocks)])
    return float(means.std(ddof=1) / np.sqrt(blocks))


def paired_differences(runs: StudyRuns, tail: float = 0.5) -> pd.DataFrame:
    """The paired difference of each comparison at each size, seed by seed.

    Args:
        runs: the study.
        tail: share of the budget, the last part of it, that the training loss is averaged over.

    Returns:
        Columns `axis`, `treatment`, `control`, `size`, `seed`, `metric`, `difference`, `block_se`, `points`. For the
        training loss the mean over the last part of the budget, with a block standard error; for each validation
        loss the last value, which has none: draws and images are the same on both sides.
    """
    index = ["metric", "size", "seed", "images"]
    wide = runs.history.set_index([*index, "variant"])["value"].unstack("variant")
    rows = []
    for comparison in comparisons(runs):
        if not {comparison.treatment, comparison.control} <= set(wide.columns):
            continue
        paired = (wide[comparison.treatment] - wide[comparison.control]).dropna()
        for keys, series in paired.groupby(level=["metric", "size", "seed"], sort=True):
            metric, size, seed = cast(tuple[Any, Any, Any], keys)
            images, values = series.index.get_level_values("images").to_numpy(), series.to_numpy(float)
            if metric == TRAIN_LOSS:
                values = values[images > (1 - tail) * images.max()]
                error = _block_error(values, windows=runs.window > 1)
            else:
                values, error = values[-1:], np.nan
            rows.append(
                {
                    "axis": comparison.axis,
                    "treatment": comparison.treatment,
                    "control": comparison.control,
                    "size": size,
                    "seed": seed,
                    "metric": str(metric),
                    "difference": values.mean(),
                    "block_se": error,
                    "points": len(values),
                }
            )
    return pd.DataFrame(rows, columns=[*COMPARED, "seed", "difference", "block_se", "points"])


def _block_error(differences: npt.NDArray[np.float64], *, windows: bool) -> float:
    """The block standard error; NaN with too few values. Points that are means of windows are blocks themselves."""
    if windows:
        few = len(differences) < 4
        return float("nan") if few else float(differences.std(ddof=1) / np.sqrt(len(differences)))
    return block_standard_error(differences) if len(differences) >= 2 * BLOCKS else float("nan")


def over_seeds(differences: pd.DataFrame) -> pd.DataFrame:
    """Mean paired difference over the seeds of each comparison, size and metric.

    Returns:
        Columns `axis`, `treatment`, `control`, `size`, `metric`, `difference`, `block_se` (of the mean, from the
        blocks within the runs), `seed_se` (from the spread over seeds), `low`, `high` (95% interval: Student's t over
        the seeds), `p` (of no difference, by the same t), `seeds`, `resolved`: whether the interval leaves zero out,
        and `holm`: p adjusted over all comparisons and sizes of the metric. With one seed there is no interval.
    """
    rows = []
    for values, group in differences.groupby(COMPARED, sort=False):
        block_error = np.sqrt((group["block_se"] ** 2).sum(min_count=1)) / len(group)
        rows.append(dict(zip(COMPARED, values, strict=True)) | _mean(group["difference"]) | {"block_se": block_error})
    table = pd.DataFrame(rows, columns=[*COMPARED, *MEAN, "block_se"])
    return table.assign(holm=table.groupby("metric")["p"].transform(holm))


def holm(p_values: "pd.Series[float]") -> "pd.Series[float]":
    """Adjusted p-values of a family of tests (Holm 1979); NaN stays, and is no member of the family."""
    tested = p_values.dropna().sort_values()
    factors = np.arange(len(tested), 0, -1)
    adjusted = np.minimum(1.0, np.maximum.accumulate(tested.to_numpy(float) * factors))
    return pd.Series(adjusted, index=tested.index).reindex(p_values.index)


def with_size(differences: pd.DataFrame, sizes: Sequence[Any]) -> pd.DataFrame:
    """How each paired difference changes from the smallest size to the largest, seed by seed.

    This is what "scales better" comes to without a fit: three sizes identify no exponent with an offset.

    Args:
        differences: of `paired_differences`.
        sizes: the smallest first.

    Returns:
        Columns `axis`, `treatment`, `control`, `metric`, `smallest`, `largest`, and those of `over_seeds` but
        `block_se` and `holm`; empty with one size.
    """
    keys = [key for key in COMPARED if key != "size"]
    rows = []
    for values, group in differences.groupby(keys, sort=False):
        by_size = group.pivot(index="seed", columns="size", values="difference")
        there = [size for size in sizes if size in by_size.columns]
        smallest, largest = there[0], there[-1]
        change = (by_size[largest] - by_size[smallest]).dropna()
        if smallest != largest and len(change):
            ends = {"smallest": smallest, "largest": largest}
            rows.append(dict(zip(keys, values, strict=True)) | ends | _mean(change))
    return pd.DataFrame(rows, columns=[*keys, "smallest", "largest", *MEAN])


def _mean(values: "pd.Series[float]") -> dict[str, Any]:
    """Mean over seeds with its interval; NaN ends, and not resolved, with one seed."""
    seeds, mean = len(values), values.mean()
    error = values.std(ddof=1) / np.sqrt(seeds) if seeds > 1 else np.nan
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1) * error if seeds > 1 else np.nan
    return {
        "difference": mean,
        "seed_se": error,
        "low": mean - reach,
        "high": mean + reach,
        "p": 2 * stats.t.sf(abs(mean) / error, seeds - 1) if seeds > 1 and error > 0 else np.nan,
        "seeds": seeds,
        "resolved": bool(abs(mean) > reach),
    }
