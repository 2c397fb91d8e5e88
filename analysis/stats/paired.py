"""Paired differences between variants.

Two variants of one size and seed see the same images, masks, noise levels and noise at every step, and start from the
same weights. The difference of their losses is therefore far less noisy than either loss.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from lina_lab.records.runstore import TRAIN_LOSS

from ..load.labels import as_text, labels_by_axis
from ..load.runs import StudyRuns, variant_fields

BLOCKS = 20
"""Number of blocks of steps from which a block standard error is computed; neighboring steps are correlated."""
CONFIDENCE = 0.95
COMPARED = ["comparison", "axis", "treatment", "baseline", "size", "metric"]
"""Columns that identify a difference."""
MEAN = ["difference", "seed_se", "low", "high", "p", "seeds", "excludes_zero"]
"""Columns of a mean over seeds."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A change of one axis; the variants are equal in all others."""

    axis: str
    treatment: str
    """Variant with the change."""
    baseline: str
    """Variant without it: it has the axis' first value."""
    label: str
    """Both values of the axis, and what the variants have in common: "subtraction vs. division (no convolution)"."""


def comparisons(runs: StudyRuns) -> list[Comparison]:
    """Return every change of an axis from its first value to another for which there are cells of both variants."""
    fields = variant_fields(runs.study)
    variants = runs.cells.drop_duplicates("variant").set_index("variant")[fields]
    texts = {name: {field: str(row[field]) for field in fields} for name, row in variants.iterrows()}
    labels = {str(name): labels_by_axis(runs.study, text) for name, text in texts.items()}
    found = []
    for axis in runs.variant_axes:
        varied = list(runs.study.axes[axis])
        first = tuple(as_text(runs.study.axes[axis][field][0]) for field in varied)
        others = [field for field in fields if field not in varied]
        for baseline, treatment in itertools.permutations(runs.variants, 2):
            a, b = variants.loc[baseline], variants.loc[treatment]
            if tuple(a[varied]) == first and tuple(b[varied]) != first and (a[others] == b[others]).all():
                label = _label(axis, labels[treatment], labels[baseline])
                found.append(Comparison(axis=axis, treatment=treatment, baseline=baseline, label=label))
    return found


def _label(axis: str, treatment: Mapping[str, str], baseline: Mapping[str, str]) -> str:
    common = ", ".join(label for name, label in baseline.items() if name != axis)
    return f"{treatment[axis]} vs. {baseline[axis]}" + (f" ({common})" if common else "")


def block_standard_error(differences: npt.NDArray[np.float64], blocks: int = BLOCKS) -> float:
    """Return the standard error of the mean of a correlated series, from the means of contiguous blocks.

    Raises:
        ValueError: fewer than two values a block.
    """
    if len(differences) < 2 * blocks:
        raise ValueError(f"{len(differences)} values are too few for {blocks} blocks")
    means = np.array([block.mean() for block in np.array_split(differences, blocks)])
    return float(means.std(ddof=1) / np.sqrt(blocks))


def paired_differences(runs: StudyRuns, tail: float = 0.5) -> pd.DataFrame:
    """Return the paired difference of each comparison at each size and seed.

    Args:
        runs: the study.
        tail: last share of the budget over which the training loss is averaged.

    Returns:
        Columns COMPARED, `seed`, `difference` (treatment minus baseline), `block_se`, `points`. The training loss is
        averaged and has a block standard error. Of a validation loss the last value is taken; it has no such error,
        because both variants are validated on the same images, masks and noise.
    """
    index = ["metric", "size", "seed", "images"]
    wide = runs.history.set_index([*index, "variant"])["value"].unstack("variant")
    rows = []
    for comparison in comparisons(runs):
        if not {comparison.treatment, comparison.baseline} <= set(wide.columns):
            continue
        paired = (wide[comparison.treatment] - wide[comparison.baseline]).dropna()
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
                    "comparison": comparison.label,
                    **asdict(comparison),
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
    """Return the block standard error; NaN for too few values. Means over windows are blocks themselves."""
    if windows:
        few = len(differences) < 4
        return float("nan") if few else float(differences.std(ddof=1) / np.sqrt(len(differences)))
    return block_standard_error(differences) if len(differences) >= 2 * BLOCKS else float("nan")


def mean_differences(differences: pd.DataFrame) -> pd.DataFrame:
    """Return the mean paired difference over the seeds of each comparison, size and metric.

    Returns:
        Columns COMPARED, `difference`, `block_se` (standard
        error from blocks within runs), `seed_se` (standard error from the spread over seeds), `low`, `high` (95%
        confidence interval: Student's t over seeds), `p` (null hypothesis of no difference, by the same t), `seeds`,
        `excludes_zero` (whether the interval does), `holm` (p, Holm-corrected over all comparisons and sizes of the
        metric). With one seed there is no interval.
    """
    rows = []
    for values, group in differences.groupby(COMPARED, sort=False):
        block_error = np.sqrt((group["block_se"] ** 2).sum(min_count=1)) / len(group)
        rows.append(dict(zip(COMPARED, values, strict=True)) | _mean(group["difference"]) | {"block_se": block_error})
    table = pd.DataFrame(rows, columns=[*COMPARED, *MEAN, "block_se"])
    return table.assign(holm=table.groupby("metric")["p"].transform(holm))


def holm(p_values: "pd.Series[float]") -> "pd.Series[float]":
    """Return Holm-corrected p-values of a family of tests (Holm 1979); NaN stays NaN and does not count."""
    tested = p_values.dropna().sort_values()
    factors = np.arange(len(tested), 0, -1)
    adjusted = np.minimum(1.0, np.maximum.accumulate(tested.to_numpy(float) * factors))
    return pd.Series(adjusted, index=tested.index).reindex(p_values.index)


def size_trends(differences: pd.DataFrame, sizes: Sequence[Any]) -> pd.DataFrame:
    """Return how each paired difference changes from the smallest size to the largest, paired by seed.

    This says whether a variant scales better without a fit, also where there are too few sizes for one.

    Args:
        differences: see `paired_differences`.
        sizes: all sizes, the smallest first.

    Returns:
        Columns COMPARED but `size`, `smallest`, `largest`, and those of `mean_differences` but
        `block_se` and `holm`; `difference` is the change. No rows for one size.
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
    """Return the mean over seeds with its confidence interval, whose ends are NaN for one seed."""
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
        "excludes_zero": bool(abs(mean) > reach),
    }
