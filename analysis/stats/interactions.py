"""Differences compared between tasks: by the logarithms of losses, whose differences have no unit."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from ..load.kinds import kind_axes, kind_of
from ..load.labels import labels_by_axis
from ..load.runs import StudyRuns
from .paired import COMPARED, Comparison, comparisons, interaction_label, means_over_seeds, variant_texts

OTHER_PAIR = ["other_treatment", "other_baseline"]
"""Columns: the variants of the second difference of an interaction."""


@dataclass(frozen=True, kw_only=True)
class Interaction:
    """A comparison with one task, less the same with an earlier one."""

    first: Comparison
    second: Comparison
    label: str
    """Such as "subtraction vs. division (relu): classification vs. generation"."""


def interactions(runs: StudyRuns) -> list[Interaction]:
    """Return every comparison of two variants with each pair of tasks that have both variants."""
    study, texts = runs.study, variant_texts(runs)
    labels = {name: labels_by_axis(study, own) for name, own in texts.items()}

    def rest(variant: str, across: str) -> tuple[str, ...]:
        return tuple(text for name, text in texts[variant].items() if name not in study.axes[across])

    found = []
    for across in kind_axes(study):
        groups: dict[tuple[object, ...], list[Comparison]] = {}
        for one in comparisons(runs):
            if one.axis != across:
                key = (one.axis, rest(one.treatment, across), rest(one.baseline, across))
                groups.setdefault(key, []).append(one)
        for second, first in itertools.chain(*(itertools.combinations(group, 2) for group in groups.values())):
            if kind_of(study, texts[first.treatment]) == kind_of(study, texts[second.treatment]):
                continue
            own = (labels[name] for name in (first.treatment, first.baseline, second.treatment))
            label = interaction_label(first.axis, across, *own)
            found.append(Interaction(first=first, second=second, label=label))
    return found


def interaction_rows(runs: StudyRuns, differences: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of each interaction over the seeds that both tasks share, for each size and metric.

    Args:
        runs: the study.
        differences: see `paired.paired_differences`.

    Returns:
        `paired.COMPARED` (the comparison is the interaction's label, treatment and baseline are of its first
        difference), OTHER_PAIR and `paired.MEAN` (of the logarithm of the ratio of ratios).
    """
    rows = interaction_values(runs, differences)
    return means_over_seeds(rows, [*COMPARED, *OTHER_PAIR], "difference")


def interaction_values(runs: StudyRuns, differences: pd.DataFrame) -> pd.DataFrame:
    """Return each interaction of each seed: `paired.COMPARED`, OTHER_PAIR, `seed` and `difference` of logarithms.

    Args:
        runs: the study.
        differences: see `paired.paired_differences`.
    """
    pairs: Mapping[object, pd.DataFrame] = dict(iter(differences.groupby(["treatment", "baseline"], sort=False)))
    keys, columns = ["metric", "size", "seed"], [*COMPARED, *OTHER_PAIR, "seed", "difference"]
    parts = []
    for one in interactions(runs):
        sides = [pairs.get((side.treatment, side.baseline)) for side in (one.first, one.second)]
        if sides[0] is None or sides[1] is None:
            continue
        both = sides[0].merge(sides[1][[*keys, "log_ratio"]], on=keys, suffixes=("", "_there"))
        both = both.assign(difference=both["log_ratio"] - both["log_ratio_there"], comparison=one.label)
        both = both.assign(other_treatment=one.second.treatment, other_baseline=one.second.baseline)
        parts.append(both.dropna(subset="difference")[columns])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
