"""The losses that the primary comparison adds up, found in the tables of a study."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pandas as pd

from lina_lab.config import ContrastTerm, StudyConfig
from lina_lab.decisions.contrast import contrast_values

from ..load.labels import as_text, labels_by_axis, variant_label
from ..load.runs import StudyRuns
from .paired import comparison_label


def other_sizes(study: StudyConfig, terms: Sequence[ContrastTerm]) -> list[list[ContrastTerm]]:
    """Return the terms of the same difference at every other size; none for a growth, which has all sizes' noise."""
    fields = list(study.axes[study.size_axis])
    points = [dict(zip(fields, point, strict=True)) for point in study.points(study.size_axis)]
    own = [{name: term.values[name] for name in fields} for term in terms]
    if any(one != other for one, other in pairwise(own)):
        return []
    return [
        [ContrastTerm(values={**term.values, **point}, weight=term.weight) for term in terms]
        for point in points
        if point != own[0]
    ]


def values(runs: StudyRuns, terms: Sequence[ContrastTerm], metric: str) -> dict[int, float]:
    """Return the contrast of each seed."""
    texts = [ContrastTerm(values=texts(term), weight=term.weight) for term in terms]
    cells = runs.cells[[*texts[0].values]].to_dict("records")
    rows = zip(cells, runs.cells["seed"].astype(int), runs.cells[metric].astype(float), strict=True)
    return contrast_values(texts, (({str(name): value for name, value in row.items()}, s, x) for row, s, x in rows))


def texts(term: ContrastTerm) -> dict[str, str]:
    """Return the fields' values of a term as the table of cells holds them."""
    return {name: as_text(value) for name, value in term.values.items()}


def variant(runs: StudyRuns, term: ContrastTerm) -> str:
    return variant_label(runs.study, term.values)


def size(runs: StudyRuns, term: ContrastTerm) -> Any:
    return sized(runs, term.values[next(iter(runs.study.axes[runs.study.size_axis]))])


def sized(runs: StudyRuns, value: Any) -> Any:
    """Return a value of the size axis as the table of cells holds it."""
    return value if pd.api.types.is_numeric_dtype(runs.cells["size"]) else as_text(value)


def label(study: StudyConfig, terms: Sequence[ContrastTerm]) -> str:
    assert study.primary is not None
    treatment, baseline = (
        labels_by_axis(study, texts(next(term for term in terms if term.weight == weight))) for weight in (1, -1)
    )
    return comparisonlabel(study.primary.axis, treatment, baseline)
