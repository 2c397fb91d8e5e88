"""The losses that the primary comparison adds up, found in the tables of a study."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from lina_lab.config import ContrastTerm, StudyConfig
from lina_lab.decisions.contrast import Contrast, contrast

from ..load.labels import as_text, axis_label, labels_by_axis, variant_label
from ..load.runs import StudyRuns
from .paired import comparison_label, interaction_label


def found(runs: StudyRuns, terms: Sequence[ContrastTerm], metric: str) -> Contrast:
    """Return the contrast over the seeds of which all cells count."""
    as_stored = [replace(term, values=texts(term.values)) for term in terms]
    fields = runs.cells[[*terms[0].values]].to_dict("records")
    rows = zip(fields, runs.cells["seed"].astype(int), runs.cells[metric].astype(float), strict=True)
    return contrast(as_stored, ((texts(row), seed, value) for row, seed, value in rows))


def texts(fields: Mapping[Any, Any]) -> dict[str, str]:
    """Return the values of fields as text, as the table of cells holds them."""
    return {str(name): as_text(value) for name, value in fields.items()}


def variant(runs: StudyRuns, term: ContrastTerm) -> str:
    """Return the variant that a term belongs to."""
    return variant_label(runs.study, term.values)


def size(runs: StudyRuns, term: ContrastTerm) -> Any:
    """Return the size that a term belongs to, as the table of cells holds it."""
    return sized(runs, term.values[next(iter(runs.study.axes[runs.study.size_axis]))])


def sized(runs: StudyRuns, value: Any) -> Any:
    """Return a value of the size axis as the table of cells holds it."""
    return value if pd.api.types.is_numeric_dtype(runs.cells["size"]) else as_text(value)


def ordered_sizes(runs: StudyRuns) -> list[Any]:
    """Return the values of the size axis, in its order."""
    return [sized(runs, point[0]) for point in runs.study.points(runs.study.size_axis)]


def label(study: StudyConfig, terms: Sequence[ContrastTerm]) -> str:
    """Return the label of the primary comparison, see `paired.comparison_label`."""
    assert study.primary is not None
    treatment, baseline, *others = (labels_by_axis(study, texts(term.values)) for term in terms)
    across = study.primary.across
    if across is None:
        return comparison_label(study.primary.axis, treatment, baseline)
    return interaction_label(study.primary.axis, across.axis, treatment, baseline, others[0])


def names(study: StudyConfig, terms: Sequence[ContrastTerm]) -> tuple[str, str]:
    """Return the axis' value of the treatment and of the baseline, such as "subtraction" and "division"."""
    assert study.primary is not None
    first, second = (axis_label(study, study.primary.axis, term.values) for term in terms[:2])
    return first, second


def sides(study: StudyConfig, terms: Sequence[ContrastTerm]) -> dict[str, tuple[ContrastTerm, ...]]:
    """Return the two differences of an interaction: name of the other axis' value -> its terms. None otherwise."""
    if study.primary is None or study.primary.across is None:
        return {}
    axis = study.primary.across.axis
    at_baseline = tuple(replace(term, weight=-term.weight) for term in terms[2:])
    return {axis_label(study, axis, part[0].values): part for part in (tuple(terms[:2]), at_baseline)}


def diverged(runs: StudyRuns, variants: Sequence[str], sizes: Sequence[Any]) -> dict[str, tuple[int, int]]:
    """Return variant -> seeds that diverged at any of the sizes, and seeds that ended."""

    def seeds(table: pd.DataFrame, variant: str) -> set[int]:
        return set(table[(table["variant"] == variant) & table["size"].isin(sizes)]["seed"])

    lost = {variant: seeds(runs.diverged, variant) for variant in variants}
    return {variant: (len(lost[variant]), len(lost[variant] | seeds(runs.cells, variant))) for variant in variants}
