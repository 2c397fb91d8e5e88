"""The parts of a study whose losses are of one kind: losses of different tasks are different quantities."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from lina_lab.config import StudyConfig
from lina_lab.config.primary import OTHER_LOSS

from .errors import StoreError
from .labels import as_text, variant_label
from .runs import StudyRuns

TASK = "model.task"
GENERATION = "generation"


def kind_axes(study: StudyConfig) -> list[str]:
    """Return the axes along which losses do not compare."""
    return [name for name, fields in study.axes.items() if any(field in OTHER_LOSS for field in fields)]


def kind_of(study: StudyConfig, values: Mapping[Any, Any]) -> str:
    """Return the kind of a variant's losses, such as "classification"; empty in a study of one kind.

    Args:
        study: its axes.
        values: field -> value, for every varied field.
    """
    fields = [field for axis in study.axes.values() for field in axis if field in OTHER_LOSS]
    return ", ".join(as_text(values[field]) for field in fields)


def by_kind(runs: StudyRuns) -> dict[str, StudyRuns]:
    """Return the part of each kind of loss, in the order of the study's axes; empty for a study of one kind."""
    study = runs.study
    if not kind_axes(study):
        return {}
    kinds: dict[str, str] = {}
    for points in itertools.product(*map(study.points, runs.variant_axes)):
        fields = (field for name in runs.variant_axes for field in study.axes[name])
        values = dict(zip(fields, itertools.chain(*points), strict=True))
        kinds[variant_label(study, values)] = kind_of(study, values)
    # Variants of an earlier definition of the study.
    for row in runs.cells.drop_duplicates("variant").to_dict("records"):
        kinds.setdefault(row["variant"], kind_of(study, row))
    there = set(runs.cells["variant"].map(kinds))
    return {kind: _of_kind(runs, kinds, kind) for kind in dict.fromkeys(kinds.values()) if kind in there}


def of_generation(runs: StudyRuns) -> StudyRuns:
    """Return the cells that were trained to generate, as the paper's were.

    Raises:
        StoreError: the study has none.
    """
    parts = by_kind(runs)
    if parts:
        tasks, found = list(parts), parts.get(GENERATION)
    else:
        tasks = list(runs.cells[TASK].unique()) if TASK in runs.cells else [GENERATION]
        found = runs if GENERATION in tasks else None
    if found is None:
        raise StoreError(f"the study {runs.study.name} has cells of {' and '.join(tasks)} only, and none of generation")
    return found


def _of_kind(runs: StudyRuns, kinds: Mapping[str, str], kind: str) -> StudyRuns:
    def part(table: pd.DataFrame) -> pd.DataFrame:
        if "variant" not in table:
            return table
        mine = table[table["variant"].map(kinds).astype(str) == kind].reset_index(drop=True)
        names = mine.select_dtypes("category").columns
        return mine.assign(**{name: mine[name].cat.remove_unused_categories() for name in names})

    return replace(
        runs,
        cells=part(runs.cells),
        history=part(runs.history),
        checkpoints=part(runs.checkpoints),
        tuning=part(runs.tuning),
        again=part(runs.again),
        diverged=part(runs.diverged),
        pruned=part(runs.pruned),
        sources=part(runs.sources),
    )
