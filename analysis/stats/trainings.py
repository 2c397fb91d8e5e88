"""Which losses stand for complete trainings of so many images.

While the learning rate is constant, each checkpoint does. A cell that cools down stands for its budget alone; where the
points of an axis are budgets of one training (branches of a trunk, or a training that was extended), they are points in
D of one variant.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from lina_lab.config import StudyConfig

from ..load.cells import CONSTANT, SCHEDULE
from ..load.labels import labels_by_axis
from ..load.lineage import STATE
from ..load.runs import StudyRuns

BUDGET = "trainer.max_images"
OF_A_BUDGET: tuple[str, ...] = (
    *(BUDGET, "trainer.val_every_images", "trainer.log_every_n_steps", "start.", "sampling.", "ema.", "checkpoint."),
    *("optimizer.schedule", "optimizer.cooldown", "optimizer.final_rate"),
)
"""Beginnings of the fields that may differ between two budgets of one training, see `StartConfig.state`."""


def budget_axis(runs: StudyRuns) -> str | None:
    """Return the axis whose points are budgets of one training; None: there is none."""
    stages = runs.study.stages
    if stages is None or not set(runs.cells[STATE]) <= {"", "training"}:
        return None
    fields = runs.study.axes[stages.axis]
    return stages.axis if BUDGET in fields and all(field.startswith(OF_A_BUDGET) for field in fields) else None


def by_training(runs: StudyRuns) -> StudyRuns:
    """Return the study with the checkpoints that stand for complete trainings alone.

    Budgets of one training are checkpoints of one variant. If some of them cool down, those that do not are left out:
    their rate is another one.
    """
    axis, table = budget_axis(runs), runs.checkpoints
    if axis is None and SCHEDULE not in runs.cells:
        return runs
    schedules = runs.cells.set_index("cell").get(SCHEDULE, pd.Series(dtype=str))
    cooled = table["cell"].isin(schedules.index[schedules != CONSTANT])
    ends = table["images"] == table.groupby("cell", observed=True)["images"].transform("max")
    mixed = axis is not None and cooled.any()
    table = pd.DataFrame(table[cooled & ends] if mixed else table[ends | ~cooled])
    if axis is None:
        return runs if not cooled.any() else replace(runs, checkpoints=table)
    study = _without(runs.study, axis)
    names = {
        str(row["variant"]): _label(study, {str(n): v for n, v in row.items()})
        for row in runs.cells.drop_duplicates("variant").to_dict("records")
    }
    return replace(runs, study=study, cells=_renamed(runs.cells, names), checkpoints=_renamed(table, names))


def _without(study: StudyConfig, axis: str) -> StudyConfig:
    axes = {name: fields for name, fields in study.axes.items() if name != axis}
    labels = {name: own for name, own in study.labels.items() if name != axis}
    return replace(study, axes=axes, labels=labels, stages=None, primary=None, until=None, exclude=[])


def _label(study: StudyConfig, row: Mapping[str, Any]) -> str:
    return ", ".join(labels_by_axis(study, row).values()) or "all"


def _renamed(table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    variants = table["variant"].astype(str)
    return table.assign(variant=variants.map(names).fillna(variants))
