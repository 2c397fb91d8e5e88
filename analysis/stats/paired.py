"""Paired differences between variants.

Two variants of one size and seed see the same images, masks, noise levels and noise at every step, and start from the
same weights. The difference of their losses is therefore far less noisy than either loss.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from lina_lab.config import StudyConfig
from lina_lab.config.primary import OTHER_LOSS
from lina_lab.records.runstore import TRAIN_LOSS

from ..load.labels import as_text, labels_by_axis
from ..load.runs import StudyRuns, variant_fields
from .noise import MIN_STEPS, MIN_WINDOWS, TOO_CORRELATED, TOO_SHORT, standard_errors

CONFIDENCE = 0.95
COMPARED = ["comparison", "axis", "treatment", "baseline", "size", "metric"]
"""Columns that identify a difference."""
SAMPLE = ["metric", "size", "seed"]
"""Columns that identify a difference of one comparison and seed."""
ROLES = ["treatment", "baseline"]
SAME_IMAGES = "both variants are validated on the same images, masks and noise"
MEAN = ["difference", "seed_se", "low", "high", "p", "seeds", "excludes_zero"]
"""Columns of a mean over seeds. Where there is no interval, all but the difference and the seeds are NaN or false."""
SAME = 1e-12
"""Seeds that differ by less, relative to the largest, agree exactly."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A change of one axis; the variants are equal in all others."""

    axis: str
    treatment: str
    """Variant with the change."""
    baseline: str
    """Variant without it: it has the axis' first value that is compared."""
    label: str
    """Both values of the axis, and what the variants have in common: "subtraction vs. division (no convolution)"."""


def comparisons(runs: StudyRuns) -> list[Comparison]:
    """Return every change of an axis from its first value to another for which there are cells of both variants.

    Variants whose losses are of different kinds (`primary.OTHER_LOSS`) are not compared.
    """
    texts = variant_texts(runs)
    labels = {name: labels_by_axis(runs.study, text) for name, text in texts.items()}
    # Losses of another kind are fields that both variants have in common.
    fields = variant_fields(runs.study)
    found = []
    for axis in runs.variant_axes:
        varied = list(runs.study.axes[axis])
        first = _first(runs.study, axis)
        common = [field for field in fields if field not in varied or field in OTHER_LOSS]
        for baseline, treatment in itertools.permutations(runs.variants, 2):
            a, b = texts[baseline], texts[treatment]
            changed = _of(a, varied) in first and _of(b, varied) not in first
            if changed and _of(a, common) == _of(b, common):
                label = comparison_label(axis, labels[treatment], labels[baseline])
                found.append(Comparison(axis=axis, treatment=treatment, baseline=baseline, label=label))
    return found


def variant_texts(runs: StudyRuns) -> dict[str, dict[str, str]]:
    """Return variant -> field -> value as text, of the variants that have cells."""
    fields = variant_fields(runs.study)
    variants = runs.cells.drop_duplicates("variant").set_index("variant")[fields]
    return {str(name): {field: str(row[field]) for field in fields} for name, row in variants.iterrows()}


def _of(texts: Mapping[str, str], fields: Sequence[str]) -> tuple[str, ...]:
    return tuple(texts[field] for field in fields)


def _first(study: StudyConfig, axis: str) -> set[tuple[str, ...]]:
    """Return the first point of an axis whose cells are compared, as text; of each kind of loss the first one."""
    stages, points = study.stages, study.points(axis)
    left_out = stages.not_compared if stages is not None and stages.axis == axis else []
    compared = [p for p, name in zip(points, study.point_names(axis), strict=True) if name not in left_out]
    kinds = [index for index, field in enumerate(study.axes[axis]) if field in OTHER_LOSS]
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for point in compared or points:
        text = tuple(as_text(value) for value in point)
        found.setdefault(tuple(text[index] for index in kinds), text)
    return set(found.values())


def comparison_label(axis: str, treatment: Mapping[str, str], baseline: Mapping[str, str]) -> str:
    """Return the label of a comparison.

    Args:
        axis: the axis that is changed.
        treatment: axis -> label of the variant's value; see `labels_by_axis`.
        baseline: the same of the other variant.
    """
    return _label([axis], axis, treatment, baseline)


def interaction_label(
    axis: str, across: str, treatment: Mapping[str, str], baseline: Mapping[str, str], other: Mapping[str, str]
) -> str:
    """Return the label of a comparison at one value of another axis, compared with the same at another value.

    Args:
        axis: the axis that is changed.
        across: the other axis.
        treatment: axis -> label of the variant's value; see `labels_by_axis`.
        baseline: the same of the variant that it is compared with.
        other: the same of a variant at the other value.
    """
    return f"{_label([axis, across], axis, treatment, baseline)}: {treatment[across]} vs. {other[across]}"


def _label(left_out: Sequence[str], axis: str, treatment: Mapping[str, str], baseline: Mapping[str, str]) -> str:
    common = ", ".join(label for name, label in baseline.items() if name not in left_out)
    return f"{treatment[axis]} vs. {baseline[axis]}" + (f" ({common})" if common else "")


def paired_differences(runs: StudyRuns, tail: float = 0.5) -> pd.DataFrame:
    """Return the paired difference of each comparison at each size and seed.

    Args:
        runs: the study.
        tail: last share of the budget over which the training loss is averaged.

    Returns:
        Columns COMPARED, `seed`, `difference` (treatment minus baseline), `log_ratio` (logarithm of treatment over
        baseline; NaN unless both are positive), `block_se`, `block_reason`, `points`. The training loss is averaged,
        and `block_se` is the standard error of that mean; where it is NaN, `block_reason` says why. Of a validation
        loss the last value is taken; it has no such error, because both variants are validated on the same images,
        masks and noise. In a study with stages, budgets may differ between variants: each is then compared at its own
        end, and by no training loss, since it has no step in common with the other at which both have ended.
    """
    history = runs.history if runs.study.stages is None else _at_their_ends(runs.history)
    wide = history.set_index([*SAMPLE, "images", "variant"])["value"].unstack("variant")
    # Numbers in place of names: a study of many runs has millions of points.
    sample = wide.groupby(level=SAMPLE, sort=True, observed=True).ngroup().to_numpy()
    rows = wide.index.to_frame(index=False)
    names = rows.loc[~pd.Series(sample).duplicated(), SAMPLE].reset_index(drop=True).astype({"metric": str})
    points = pd.DataFrame({"sample": sample, "images": rows["images"]})
    found = [
        _differences(
            comparison,
            points.assign(**{role: wide[getattr(comparison, role)].to_numpy() for role in ROLES}).dropna(),
            names,
            tail,
            runs.window > 1,
        )
        for comparison in comparisons(runs)
        if {comparison.treatment, comparison.baseline} <= set(wide.columns)
    ]
    columns = [*COMPARED, "seed", "difference", "log_ratio", "block_se", "block_reason", "points"]
    table = pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)
    return table if runs.study.stages is None else table[~_of_unequal_trainings(table, runs.history)]


def _at_their_ends(history: pd.DataFrame) -> pd.DataFrame:
    """Return a history in which each validation loss is the last one, and all of them are at the same images."""
    train = history["metric"] == TRAIN_LOSS
    last = history[~train].sort_values("images").drop_duplicates(["cell", "metric"], keep="last")
    return pd.concat([history[train], last.assign(images=history["images"].max())], ignore_index=True)


def _of_unequal_trainings(table: pd.DataFrame, history: pd.DataFrame) -> "pd.Series[bool]":
    """Return which differences are of the training losses of two cells that have seen other numbers of images."""
    ends = history.astype({"variant": str}).groupby(["variant", "size", "seed"], observed=True)["images"].max()
    sides = [ends.reindex(pd.MultiIndex.from_frame(table[[role, "size", "seed"]])).to_numpy() for role in ROLES]
    return pd.Series((table["metric"] == TRAIN_LOSS) & (sides[0] != sides[1]), dtype=bool)


def _differences(
    comparison: Comparison, pairs: pd.DataFrame, names: pd.DataFrame, tail: float, windows: bool
) -> pd.DataFrame:
    """Return the differences of one comparison.

    Args:
        comparison: the two variants.
        pairs: `sample`, `images`, and the losses of both ROLES; sorted by sample and images.
        names: SAMPLE, the row of each sample's number.
        tail: see `paired_differences`.
        windows: see `noise.standard_errors`.
    """
    train = (names["metric"] == TRAIN_LOSS).to_numpy()[pairs["sample"]]
    in_tail = pairs["images"] > (1 - tail) * pairs.groupby("sample")["images"].transform("max")
    kept = pairs[(train & in_tail) | (~train & ~pairs.duplicated("sample", keep="last"))]
    kept = kept.assign(step=kept["treatment"] - kept["baseline"])
    samples = kept.groupby("sample")
    means, points = samples[[*ROLES, "step"]].mean(), samples.size()
    logs = np.log(means[ROLES].where(means[ROLES] > 0))
    table = pd.DataFrame({"difference": means["step"], "log_ratio": logs["treatment"] - logs["baseline"]})
    own = names.loc[table.index]
    errors = _block_errors(kept["step"].to_numpy(float), points, (own["metric"] == TRAIN_LOSS).to_numpy(), windows)
    table = table.assign(points=points).join(errors).join(own).reset_index(drop=True)
    return table.assign(comparison=comparison.label, **asdict(comparison))


def _block_errors(
    values: np.ndarray[Any, np.dtype[np.float64]],
    lengths: "pd.Series[int]",
    trained: np.ndarray[Any, np.dtype[np.bool_]],
    windows: bool,
) -> pd.DataFrame:
    """Return `block_se` and `block_reason` of each mean difference.

    Args:
        values: the differences step by step, sample after sample.
        lengths: how many of them each sample has.
        trained: whether a sample is one of the training loss.
        windows: see `noise.standard_errors`.
    """
    counts = lengths.to_numpy()
    errors, reasons = np.full(len(counts), np.nan), np.full(len(counts), SAME_IMAGES, dtype=object)
    for steps in np.unique(counts[trained]):
        same = trained & (counts == steps)
        errors[same] = standard_errors(values[np.repeat(same, counts)].reshape(-1, steps), windows=windows)
        reasons[same] = TOO_SHORT if steps < (MIN_WINDOWS if windows else MIN_STEPS) else TOO_CORRELATED
    reasons[~np.isnan(errors)] = ""
    return pd.DataFrame({"block_se": errors, "block_reason": reasons}, index=lengths.index)


def mean_differences(differences: pd.DataFrame) -> pd.DataFrame:
    """Return the mean paired difference over the seeds of each comparison, size and metric.

    Returns:
        Columns COMPARED, `difference`, `seed_se` (standard error from the spread over seeds), `low`, `high` (95%
        confidence interval: Student's t over seeds), `p` (null hypothesis of no difference, by the same t), `seeds`,
        `excludes_zero` (whether the interval does), `block_se` (standard error from noise within runs), `holm` (p,
        Holm-corrected over all comparisons and sizes of the metric). Without an interval, see `MEAN`, these are NaN.
    """
    table = means_over_seeds(differences, COMPARED, "difference")
    # A seed whose error cannot be told counts like the others.
    squares = differences.assign(square=differences["block_se"] ** 2).groupby(COMPARED, sort=False)["square"].mean()
    errors = np.sqrt(squares.to_numpy(float) / table["seeds"].to_numpy(float))
    return table.assign(block_se=errors, holm=table.groupby("metric")["p"].transform(holm))


def holm(p_values: "pd.Series[float]") -> "pd.Series[float]":
    """Return Holm-corrected p-values of a family of tests (Holm 1979); NaN stays NaN and does not count."""
    tested = p_values.dropna().sort_values()
    factors = np.arange(len(tested), 0, -1)
    adjusted = np.minimum(1.0, np.maximum.accumulate(tested.to_numpy(float) * factors))
    return pd.Series(adjusted, index=tested.index).reindex(p_values.index)


def size_trends(differences: pd.DataFrame, sizes: Sequence[Any], column: str = "difference") -> pd.DataFrame:
    """Return how each paired difference changes from the smallest size to the largest, paired by seed.

    This says whether a variant scales better without a fit, also where there are too few sizes for one.

    Args:
        differences: see `paired_differences`.
        sizes: all sizes, the smallest first.
        column: what changes: `difference`, or `log_ratio`, which does not shrink as both losses fall.

    Returns:
        Columns COMPARED but `size`, `smallest`, `largest`, and those of `mean_differences` but
        `block_se` and `holm`; `difference` is the change. No rows for one size.
    """
    keys = [key for key in COMPARED if key != "size"]
    if differences.empty:
        return pd.DataFrame(columns=[*keys, "smallest", "largest", *MEAN])
    by_size = differences.set_index([*keys, "seed", "size"])[column].unstack("size").reindex(columns=list(sizes))
    there = by_size.notna().groupby(level=keys, sort=False).any()
    ends = pd.DataFrame({"smallest": there.idxmax(axis=1), "largest": there.iloc[:, ::-1].idxmax(axis=1)})
    rows = by_size.reset_index().merge(ends.reset_index(), on=keys)
    column_of = {size: index for index, size in enumerate(sizes)}
    values, row = rows[list(sizes)].to_numpy(float), np.arange(len(rows))
    first, last = (values[row, rows[end].map(column_of).to_numpy(int)] for end in ("smallest", "largest"))
    rows = rows.assign(change=last - first)[rows["smallest"] != rows["largest"]].dropna(subset="change")
    return means_over_seeds(rows, [*keys, "smallest", "largest"], "change")


def means_over_seeds(table: pd.DataFrame, keys: list[str], column: str) -> pd.DataFrame:
    """Return the columns `keys` and MEAN: the mean of a column over seeds, and Student's t interval.

    One seed has no interval, and neither have seeds that agree exactly: they say nothing of the noise.
    """
    found = table.groupby(keys, sort=False)[column].agg(["mean", "std", "count", "min", "max"]).reset_index()
    mean, seeds = found["mean"].to_numpy(float), found["count"].to_numpy(int)
    agree = found["max"] - found["min"] <= SAME * np.maximum(found["max"].abs(), found["min"].abs())
    error = np.where(agree, np.nan, found["std"].to_numpy(float) / np.sqrt(seeds))
    freedom = np.maximum(seeds - 1, 1)
    reach = stdtrit(freedom, (1 + CONFIDENCE) / 2) * error
    return found[keys].assign(
        difference=mean,
        seed_se=error,
        low=mean - reach,
        high=mean + reach,
        p=2 * stdtr(freedom, -abs(mean) / error),
        seeds=seeds,
        excludes_zero=abs(mean) > reach,
    )
