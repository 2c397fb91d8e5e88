"""What a study asks for and its run store does not hold."""

import itertools
from collections.abc import Mapping
from typing import Any

import pandas as pd

from lina_lab.config import StudyConfig
from lina_lab.config.names import full_name

from .labels import as_text


def absent_cells(every: pd.DataFrame, study: StudyConfig) -> list[str]:
    """Return the names of the cells that the study's axes and seeds ask for and that have no run.

    Args:
        every: see `cells.cell_rows`.
        study: seeds that `until` adds are not among its seeds, and are not looked for.
    """
    fields = [field for axis in study.axes.values() for field in axis]
    present = set(every[[*fields, "seed"]].itertuples(index=False, name=None))
    names = []
    for points in itertools.product(*map(study.points, study.axes)):
        values = dict(zip(fields, itertools.chain(*points), strict=True))
        if any(_matches(values, rule) for rule in study.exclude):
            continue
        own = tuple(as_text(values[field]) for field in fields)
        size = str(values[next(iter(study.axes[study.size_axis]))])
        seeds = study.seeds_at_size.get(size, study.seeds)
        names += [full_name(study, values, {"seed": seed}) for seed in seeds if (*own, seed) not in present]
    return names


def _matches(values: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    return all(values[field] in (wanted if isinstance(wanted, list) else [wanted]) for field, wanted in rule.items())
