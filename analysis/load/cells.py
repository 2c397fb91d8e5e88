"""A study's cells as rows of a table: their configuration, their results, and which of them count."""

import json
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pandas as pd

from lina_lab.config import LinaConfig, StudyConfig, TrialConfig, current_name, from_stored
from lina_lab.config.cautions import cautions
from lina_lab.config.ema import length_of
from lina_lab.config.factors import FACTORS
from lina_lab.config.primary import OTHER_LOSS
from lina_lab.model import count
from lina_lab.records.runstore import (
    AXES,
    CELL,
    CONTENTS,
    ERROR,
    EVALUATION,
    IMAGES_PER_SECOND,
    SEED,
    STATUS,
    THREADS,
    TRAIN_LOSS,
)
from lina_lab.records.status import CellStatus
from lina_lab.util.compat.mlflow import as_logged
from lina_lab.util.nested import flatten

from .configs import config_json, stored_config
from .errors import StoreError
from .labels import as_text, variant_label

if TYPE_CHECKING:
    from mlflow.entities import Run

LOSSES = (TRAIN_LOSS, "val/loss_raw", "val/loss_ema")
KEYS = ["cell", "variant", "size", "seed"]
"""Columns that identify a cell; `variant` names its value of each axis but the size's."""
TUNING = [*KEYS, "field", "value", "objective", "state", "compared", "kind"]
"""Columns of a tuning cell: KEYS, the tuned field and its value, the main objective, how the cell ended, the value
that its variant is compared at at this size (NaN where it is not), and the kind of its loss (`primary.OTHER_LOSS`)."""
PRUNED = [*KEYS, "trained"]
"""Columns of a cell that was given up: KEYS, and whether it was trained at all."""
CAUTIONS = "cautions"
"""Column: a line for each number of the cell that means less than its name says, see `config.cautions`."""
SCHEDULE = "schedule"
"""Column: name of the learning rate's schedule."""
IMAGE_KIND = "image kind"
"""Column: see `image_kind`."""
SAMPLED = "sampled task"
"""Column: the task of a cell that leaves generated images; empty text for others."""
CONSTANT = "constant"
"""The schedule under which each checkpoint stands for a complete training."""
MEASURED = (IMAGES_PER_SECOND, "fit_seconds", "peak_memory_mib", THREADS)


def image_kind(model: LinaConfig) -> str:
    """Return the shape and the condition of the images that a model learns; losses of other kinds do not compare."""
    height, width = model.latent_size
    condition = "captions" if model.text_dim is not None else "no condition"
    if model.num_classes is not None:
        condition = f"{model.num_classes:,} classes"
    return f"{model.latent_channels} x {height} x {width} numbers with {condition}"


def cell_rows(runs: Sequence["Run"], study: StudyConfig) -> pd.DataFrame:
    """Return a row for each run of a cell.

    Returns:
        `run`, KEYS, `state`, `reason` (why it does not count; empty for a run that counts), `label`, the varied fields
        as text, `data`, `parameters` (all), `body_parameters` (without embeddings), `flops_per_image`, `flops` (of
        training), the last losses (NaN where there are none), measurements, metrics of generated images, the
        factors of training and shape, CAUTIONS, SCHEDULE and IMAGE_KIND.

    Raises:
        StoreError: a stored configuration is not one of this version.
    """
    frame = pd.DataFrame([_row(run, study) for run in runs])
    if not pd.api.types.is_numeric_dtype(frame["size"]):
        frame["size"] = frame["size"].map(as_text)
    objectives = [objective.metric for objective in study.objectives]
    frame = frame.assign(**{name: math.nan for name in objectives if name not in frame})
    return frame.assign(reason=_reasons(frame, objectives))


def tuning_rows(
    runs: Sequence["Run"], study: StudyConfig, comparison: pd.DataFrame, others: Sequence["Run"]
) -> pd.DataFrame:
    """Return a row for each cell that tried a value of the tuned field.

    Args:
        runs: attempts at these cells; the last one counts.
        study: defines what is tuned.
        comparison: `cell_rows` of the comparison.
        others: its runs.

    Returns:
        The columns TUNING; the objective is NaN unless the cell is done.
    """
    if not runs or not study.tune:
        return pd.DataFrame(columns=TUNING)
    field = next(iter(study.tune))
    every, configs = cell_rows(runs, study), [flatten(stored_config(run)) for run in runs]
    every = every.assign(
        field=field,
        value=[float(config[field]) for config in configs],
        kind=[as_text([config.get(name) for name in OTHER_LOSS]) for config in configs],
        objective=every[study.objective].where(every["state"] == CellStatus.DONE),
        final=every["state"].isin([CellStatus.DONE, CellStatus.DIVERGED]),
    )
    by_id, points = {run.info.run_id: run for run in others}, ["variant", "size"]
    one = comparison.drop_duplicates(points)
    compared = one[points].assign(compared=[float(flatten(stored_config(by_id[run]))[field]) for run in one["run"]])
    every = every.merge(compared, on=points, how="left")
    last = every.sort_values(["final", "started"]).drop_duplicates("cell", keep="last")
    return last.sort_values([*KEYS[1:], "value"])[TUNING].reset_index(drop=True)


def again_rows(runs: Sequence["Run"], study: StudyConfig) -> pd.DataFrame:
    """Return a row for each cell whose second training counts: KEYS and the objectives.

    Args:
        runs: attempts at these cells; the last one counts.
        study: names the objectives.
    """
    columns = [*KEYS, *(objective.metric for objective in study.objectives)]
    if not runs:
        return pd.DataFrame(columns=columns)
    every = cell_rows(runs, study)
    return every[every["reason"] == ""].sort_values(KEYS[1:])[columns].reset_index(drop=True)


def diverged_rows(every: pd.DataFrame) -> pd.DataFrame:
    """Return KEYS of the cells that diverged.

    Args:
        every: see `cell_rows`.
    """
    diverged = every[every["state"] == CellStatus.DIVERGED]
    return diverged.drop_duplicates("cell")[KEYS].sort_values(KEYS[1:]).reset_index(drop=True)


def pruned_rows(every: pd.DataFrame) -> pd.DataFrame:
    """Return the columns PRUNED of the cells that were given up.

    Args:
        every: see `cell_rows`.
    """
    pruned = every[every["state"] == CellStatus.PRUNED].drop_duplicates("cell")
    pruned = pruned.assign(trained=pruned["fit_seconds"] > 0)
    return pruned[PRUNED].sort_values(KEYS[1:]).reset_index(drop=True)


def check_cells(cells: pd.DataFrame, runs: Sequence["Run"], study: StudyConfig) -> None:
    """Refuse cells that do not belong in one table.

    Args:
        cells: those that count.
        runs: their runs; may hold others.
        study: its axes are the fields that may differ.

    Raises:
        StoreError: cells of several data sets, or two cells of one variant, size and seed.
    """
    varied = {field for axis in study.axes.values() for field in axis}
    if _data_sets(cells) > 1 and not any(field.startswith("data.") for field in varied):
        counts = ", ".join(f"{number} of {name}" for name, number in cells["data"].value_counts().items())
        raise StoreError(
            f"the study {study.name} mixes data sets, which are not one of its axes: {counts} cells; losses on "
            "different data cannot be compared, so give each data set its own study"
        )
    twice = cells[cells.duplicated(KEYS[1:], keep=False)].sort_values(KEYS[1:])
    if len(twice):
        first, second = (twice.iloc[index] for index in (0, 1))
        by_id = {run.info.run_id: run for run in runs}
        a, b = (flatten(stored_config(by_id[row["run"]])) for row in (first, second))
        fields = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
        raise StoreError(
            f"cells {first['cell']} and {second['cell']} of the study {study.name} are both {first['variant']}, size "
            f"{first['size']}, seed {first['seed']}, and differ in {', '.join(fields) or 'nothing'}: make that an "
            "axis, or remove one of the runs"
        )


def _data_sets(cells: pd.DataFrame) -> int:
    """Return the number of data sets that cells were trained on.

    A study goes on where its data have moved. It compares contents from when it first records them, so cells without
    them read the same; where no cell has them, the paths tell data sets apart.
    """
    known = cells["contents"] != ""
    return max(cells["data_name"].nunique(), (cells[known]["contents"] if known.any() else cells["data"]).nunique())


def _row(run: "Run", study: StudyConfig) -> dict[str, Any]:
    tags, metrics = run.data.tags, {name: float(as_logged(value)) for name, value in run.data.metrics.items()}
    axes = {current_name(field): value for field, value in json.loads(tags[AXES]).items()}
    size = next(iter(study.axes[study.size_axis]))
    nan = math.nan
    return {
        "run": run.info.run_id,
        "cell": tags[CELL],
        "variant": variant_label(study, axes),
        "size": axes[size],
        "seed": int(tags[SEED]),
        "state": tags.get(STATUS, "unknown"),
        "label": run.info.run_name,
        "started": run.info.start_time,
        "error": tags.get(ERROR) or "it has not finished",
        **{field: as_text(value) for field, value in axes.items()},
        "contents": json.loads(tags.get(CONTENTS, "{}")).get("data.path", ""),
        **_configured(run),
        **{name: metrics.get(name, nan) for name in (*LOSSES, *MEASURED)},
        **{name: value for name, value in metrics.items() if name.startswith(EVALUATION) or length_of(name)},
    }


def _configured(run: "Run") -> dict[str, Any]:
    try:
        return _derived(config_json(run))
    except ValueError as error:
        raise StoreError(
            f"the configuration of cell {run.data.tags[CELL]} is not one of this version of lina_lab ({error}): read "
            "it with the version that wrote it"
        ) from error


@lru_cache(maxsize=8192)
def _derived(config_json: str) -> dict[str, Any]:
    """Return the columns that follow from a configuration; cells that differ only in their seed share them."""
    config = from_stored(TrialConfig, json.loads(config_json))
    total = count.parameters(config.model).total
    return {
        "data_name": config.data.name,
        "data": config.data.name if config.data.path is None else f"{config.data.name} {config.data.path}",
        "parameters": total,
        "body_parameters": total - count.embedding_parameters(config.model),
        "flops_per_image": float(count.flops_per_image(config.model)),
        "flops": count.training_flops(config),
        **{name: factor.value(config) for name, factor in FACTORS.items()},
        CAUTIONS: "\n".join(cautions(config)),
        IMAGE_KIND: image_kind(config.model),
        SCHEDULE: config.optimizer.schedule,
        SAMPLED: config.model.task if config.model.kind.generates and config.sampling.images_per_class else "",
    }


def _reasons(frame: pd.DataFrame, objectives: Sequence[str]) -> list[str]:
    """Return why each run does not count; empty text for one that counts."""
    done = frame[frame["state"] == CellStatus.DONE].sort_values("started")
    newest = set(done.drop_duplicates("cell", keep="last")["run"])
    reasons = []
    for row in frame.to_dict("records"):
        if row["state"] != CellStatus.DONE:
            reasons.append(str(row["error"]))
        elif row["run"] not in newest:
            reasons.append("a later attempt at this cell is done")
        else:
            missing = [name for name in objectives if not math.isfinite(row[name])]
            reasons.append(f"it has no finite {missing[0]}, an objective of the study" if missing else "")
    return reasons
