"""A study's cells as rows: what each is, what it came to, and which of them count."""

import ast
import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd
from mlflow.entities import Run

from lina_lab.config import StudyConfig, TrialConfig, current_name, from_stored
from lina_lab.model import count
from lina_lab.records.runstore import AXES, CELL, ERROR, EVALUATION, IMAGES_PER_SECOND, SEED, STATUS, TRAIN_LOSS

from .errors import StoreError

LOSSES = (TRAIN_LOSS, "val/loss_raw", "val/loss_ema")
KEYS = ["cell", "variant", "size", "seed"]
"""Columns that say which cell a row is about; `variant` names the values of all axes but the size's."""
MEASURED = (IMAGES_PER_SECOND, "fit_seconds", "peak_memory_mib")


def cell_rows(runs: Sequence[Run], study: StudyConfig) -> pd.DataFrame:
    """A row for each run of a cell.

    Returns:
        `run`, KEYS, `state`, `reason` (empty for one that counts), `label`, the varied fields as text, `data`,
        `parameters` (all), `body_parameters` (without embeddings), `flops_per_image`, `flops` (of training), the last
        losses (NaN where there are none), measurements, what generated images were found to be, and what was held.

    Raises:
        StoreError: a run's parameters are not a configuration that this version knows.
    """
    frame = pd.DataFrame([_row(run, study) for run in runs])
    if not pd.api.types.is_numeric_dtype(frame["size"]):
        frame["size"] = frame["size"].map(as_text)
    objectives = [objective.metric for objective in study.objectives]
    frame = frame.assign(**{name: math.nan for name in objectives if name not in frame})
    return frame.assign(reason=_reasons(frame, objectives))


def check_cells(cells: pd.DataFrame, params: Mapping[str, Mapping[str, str]], study: StudyConfig) -> None:
    """Refuse cells that do not belong into one table.

    Args:
        cells: those that count.
        params: run -> its parameters.
        study: says which fields may differ.

    Raises:
        StoreError: cells of several data sets, or two of one variant, size and seed.
    """
    varied = {field for axis in study.axes.values() for field in axis}
    if cells["data"].nunique() > 1 and not any(field.startswith("data.") for field in varied):
        counts = ", ".join(f"{number} of {name}" for name, number in cells["data"].value_counts().items())
        raise StoreError(
            f"the study {study.name} mixes data sets, which are no axis of it: {counts} cells; losses on different "
            "data cannot stand in one table, so give each data set a study of its own"
        )
    twice = cells[cells.duplicated(KEYS[1:], keep=False)].sort_values(KEYS[1:])
    if len(twice):
        first, second = (twice.iloc[place] for place in (0, 1))
        a, b = params[first["run"]], params[second["run"]]
        fields = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
        raise StoreError(
            f"cells {first['cell']} and {second['cell']} of the study {study.name} are both {first['variant']}, size "
            f"{first['size']}, seed {first['seed']}, and differ in {', '.join(fields) or 'nothing'}: make that an "
            "axis, or remove one of the runs"
        )


def as_text(value: Any) -> str:
    """A field's value for a label: words as they are, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _row(run: Run, study: StudyConfig) -> dict[str, Any]:
    tags, metrics = run.data.tags, run.data.metrics
    axes = {current_name(field): value for field, value in json.loads(tags[AXES]).items()}
    size = next(iter(study.axes[study.size_axis]))
    nan = math.nan
    return {
        "run": run.info.run_id,
        "cell": tags[CELL],
        "variant": ", ".join(study.point_name(a, axes) for a in study.axes if a != study.size_axis) or "all",
        "size": axes[size],
        "seed": int(tags[SEED]),
        "state": tags.get(STATUS, "unknown"),
        "label": run.info.run_name,
        "started": run.info.start_time,
        "error": tags.get(ERROR) or "it has not ended",
        **{field: as_text(value) for field, value in axes.items()},
        **_configured(tags[CELL], tuple(sorted(run.data.params.items()))),
        **{name: metrics.get(name, nan) for name in (*LOSSES, *MEASURED)},
        **{name: value for name, value in metrics.items() if name.startswith(EVALUATION)},
    }


def _configured(cell: str, params: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    try:
        return _from_parameters(tuple(pair for pair in params if pair[0] != "seed"))
    except ValueError as error:
        raise StoreError(
            f"the parameters of cell {cell} are not a configuration of this version of lina_lab ({error}): read it "
            "with the version that wrote it"
        ) from error


@lru_cache(maxsize=8192)
def _from_parameters(params: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """What follows from a configuration; cells of many seeds have one."""
    nested: dict[str, Any] = {}
    for name, text in params:
        *parts, last = name.split(".")
        place = nested
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = _value(text)
    config = from_stored(TrialConfig, nested)
    total = count.parameters(config.model).total
    flops = count.FLOPS_PER_MULTIPLY_ADD * count.training_operations(config.model).total
    images = config.images_seen
    return {
        "data": config.data.name if config.data.path is None else f"{config.data.name} {config.data.path}",
        "parameters": total,
        "body_parameters": total - count.embedding_parameters(config.model),
        "flops_per_image": float(flops),
        "flops": float(flops) * images,
        "images_seen": images,
        "batch_size": config.data.batch_size,
        "steps": config.max_steps,
        "lr": config.optimizer.lr,
        "warmup_images": config.optimizer.warmup_images,
    }


def _value(text: str) -> Any:
    """A parameter as it was before MLflow made text of it: a Python literal, or a word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _reasons(frame: pd.DataFrame, objectives: Sequence[str]) -> list[str]:
    """Why each run does not count; empty where it does."""
    done = frame[frame["state"] == "done"].sort_values("started")
    newest = set(done.drop_duplicates("cell", keep="last")["run"])
    reasons = []
    for row in frame.to_dict("records"):
        if row["state"] != "done":
            reasons.append(str(row["error"]))
        elif row["run"] not in newest:
            reasons.append("a later attempt at the cell is done")
        else:
            missing = [name for name in objectives if not math.isfinite(row[name])]
            reasons.append(f"it has no finite {missing[0]}, which the study is compared by" if missing else "")
    return reasons
