"""Which losses stand for complete trainings of so many images.

While the learning rate is constant, each checkpoint does. A cell that cools down stands for its budget alone; where the
points of an axis are budgets of one training (branches of a trunk, or a training that was extended), they are points in
D of one variant.
"""

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from lina_lab.config import StudyConfig

from ..load.labels import labels_by_axis
from ..load.lineage import STATE
from ..load.runs import StudyRuns

BUDGET = "trainer.max_images"
OF_A_BUDGET = (BUDGET, "trainer.val_every_images", "trainer.log_every_n_steps", "start.", "sampling.", "ema.")
OF_A_BUDGET += ("optimizer.schedule", "optimizer.cooldown", "optimizer.final_rate")
"""Beginnings of the fields that may differ between two budgets of one training, see `StartConfig.state`."""


def budget_axis(runs: StudyRuns) -> str | None:
    """Return the axis whose points are budgets of one training; None: there is none."""
    stages = runs.study.stages
    if stages is None or not set(runs.cells[STATE]) <= {"", "training"}:
        return None
    fields = runs.study.axes[stages.axis]
    return stages.axis if BUDGET in fields and all(field.startswith(OF_A_BUDGET) for field in fields) else None


def by_training(runs: StudyRuns) -> StudyRuns:
    """Return the study with its budgets of one training as checkpoints of one variant, where it has any."""
    axis = budget_axis(runs)
    if axis is None:
        return runs
    study, table = _without(runs.study, axis), runs.checkpoints
    names = {row["variant"]: _label(study, row) for row in runs.cells.drop_duplicates("variant").to_dict("records")}
    ends = table["images"] == table.groupby("cell", observed=True)["images"].transform("max")
    return replace(
        runs, study=study, cells=_renamed(runs.cells, names), checkpoints=_renamed(pd.DataFrame(table[ends]), names)
    )


def _without(study: StudyConfig, axis: str) -> StudyConfig:
    axes = {name: fields for name, fields in study.axes.items() if name != axis}
    labels = {name: own for name, own in study.labels.items() if name != axis}
    return replace(study, axes=axes, labels=labels, stages=None, primary=None, until=None, exclude=[])


def _label(study: StudyConfig, row: Mapping[str, str]) -> str:
    return ", ".join(labels_by_axis(study, row).values()) or "all"


def _renamed(table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    variants = table["variant"].astype(str)
    return table.assign(variant=variants.map(names).fillna(variants))
