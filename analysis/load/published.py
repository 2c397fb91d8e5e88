"""The authors' published training runs as a study, in the same tables as our own (`runs.py`).

There is one seed per cell, the training loss of one rank in windows of 5,000 iterations, and no validation. Sizes had
equal iterations and unequal batches, so results depend on the budget at which sizes are compared (`stats/budgets.py`).
"""

from collections.abc import Hashable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from lina_lab.config import LinaConfig, ObjectiveConfig, StudyConfig, from_dict
from lina_lab.config.factors import BATCH, IMAGES, STEPS
from lina_lab.config.presets import SIZES
from lina_lab.model import count
from lina_lab.records.runstore import TRAIN_LOSS
from lina_lab.records.status import CellStatus

from .cells import KEYS
from .labels import variant_label
from .runs import StudyRuns

FOLDER = Path(__file__).parents[1] / "published"
CURVES, METRICS = "published_training_curves.csv", "published_metrics.csv"
NAME = "published"
ITERATIONS = 200_000
"""The paper compares runs at this iteration."""
WINDOW = 5_000
"""Iterations that each point of a published curve averages."""
FIELDS = {
    "normalization": "model.attention.normalization",
    "conv": "model.attention.conv",
    "gate": "model.attention.gate",
}
"""Column of the published tables -> field."""
AXES = {"normalization": "normalization", "conv": "convolution", "gate": "gate"}
"""Column of the published tables -> axis."""
MILLION = 1e6
_MODEL = ["size", *FIELDS.values()]
SOURCE = "techmonsterwang/LINA (Apache-2.0), logs/train/*_run_4node_0_*"


def read_published() -> StudyRuns:
    """Read the published training runs up to iteration 200,000."""
    curves = pd.read_csv(FOLDER / CURVES, comment="#")
    curves = curves[curves["iteration"] <= ITERATIONS]
    study = _study(curves)
    points = curves[[*FIELDS]].drop_duplicates()
    labels = {tuple(row.values()): variant_label(study, _by_field(row)) for row in points.to_dict("records")}
    curves = curves.assign(
        variant=[labels[point] for point in curves[[*FIELDS]].itertuples(index=False, name=None)],
        cell=curves["official_name"] + "_" + curves["width"].astype(str),
        size=curves["width"],
        seed=0,
        images=curves["iteration"] * curves["images_per_step"],
        metric=TRAIN_LOSS,
        value=curves["loss"],
    )
    diverged = curves[curves["loss"].isna()]
    history = curves[~curves["cell"].isin(diverged["cell"])].reset_index(drop=True)
    return StudyRuns(
        study=study,
        cells=_cells(history),
        history=history[[*KEYS, "metric", "images", "value"]],
        checkpoints=_checkpoints(curves),
        excluded=_excluded(diverged),
        source=pd.DataFrame([{"commit": SOURCE, "dirty": "unknown", "cells": history["cell"].nunique()}]),
        window=WINDOW,
    )


def _by_field(row: Mapping[Hashable, Any]) -> dict[str, Any]:
    return {FIELDS[str(name)]: value for name, value in row.items()}


def _study(curves: pd.DataFrame) -> StudyConfig:
    return StudyConfig(
        name=NAME,
        question="What do the authors' published training runs show about normalization, convolution, gates and width?",
        axes={
            **{AXES[n]: {f: list(dict.fromkeys(curves[n]))} for n, f in FIELDS.items() if n != "gate"},
            "gate": {FIELDS["gate"]: ["none", *(g for g in dict.fromkeys(curves["gate"]) if g != "none")]},
            "size": {"model.dim": sorted(int(width) for width in curves["width"].unique())},
        },
        size_axis="size",
        seeds=[0],
        controlled=[
            "learning rate, warm-up and weight decay",
            "iterations (but not images: wider models had smaller batches)",
            "seed, data order, masks, noise levels and noise, for runs of the same width",
        ],
        objectives=[ObjectiveConfig(metric=TRAIN_LOSS)],
    )


def _cells(history: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each run: its settings, and the mean loss over the last quarter of its iterations."""
    history = history.assign(
        flops_per_image=[_flops_per_image(*point) for point in history[["size", *FIELDS]].itertuples(index=False)]
    )
    last = history[history["iteration"] > 0.75 * ITERATIONS]
    cells = last.groupby(KEYS, sort=False).agg(
        **{name: (name, "first") for name in FIELDS},
        **{BATCH: ("images_per_step", "first"), STEPS: ("iteration", lambda _: ITERATIONS)},
        flops_per_image=("flops_per_image", "first"),
        loss=("value", "mean"),
    )
    cells = cells.rename(columns={**FIELDS, "loss": TRAIN_LOSS}).reset_index()
    known = parameters()
    cells["parameters"] = [known[(row["size"], row[FIELDS["conv"]] != "none")] for row in cells.to_dict("records")]
    cells["model.dim"] = cells["size"].astype(str)
    cells[IMAGES] = cells[BATCH] * cells[STEPS]
    cells["flops"] = cells["flops_per_image"] * cells[IMAGES]
    return cells.sort_values(KEYS[1:]).reset_index(drop=True)


def parameters() -> dict[tuple[int, bool], float]:
    """Return the parameters of the official model classes: (width, with convolution) -> parameters.

    They were counted without convolution and gate, and with both; a gate alone adds less than 0.1%.
    """
    metrics = published_metrics()
    counted = metrics[metrics["metric"] == "parameters"]
    return {
        (int(row["width"]), row["conv"] != "none"): MILLION * float(row["value"]) for row in counted.to_dict("records")
    }


def published_metrics() -> pd.DataFrame:
    """Return every published number: `metric`, `value`, `unit`, `model`, axes, `iteration`, guidance, `source`."""
    return pd.read_csv(FOLDER / METRICS, comment="#", keep_default_na=False, na_values=[""])


def _checkpoints(curves: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each window of each run, at the window's end."""
    known, diverged = parameters(), set(curves.loc[curves["loss"].isna(), "cell"])
    rows = curves.rename(columns={**FIELDS, "value": TRAIN_LOSS})
    flops = [_flops_per_image(*point) * images for *point, images in rows[[*_MODEL, "images"]].itertuples(index=False)]
    return rows.assign(
        state=[CellStatus.DIVERGED if cell in diverged else CellStatus.DONE for cell in rows["cell"]],
        reason=["it diverged" if cell in diverged else "" for cell in rows["cell"]],
        parameters=[known[(row["size"], row[FIELDS["conv"]] != "none")] for row in rows.to_dict("records")],
        flops=flops,
    )[[*KEYS, "state", "reason", *FIELDS.values(), "parameters", "images", "flops", TRAIN_LOSS]]


@lru_cache
def _flops_per_image(width: int, normalization: str, conv: str, gate: str) -> float:
    """Return the training FLOPs per image, two per multiply-add, counted on our own model of the same kind."""
    attention = {"normalization": normalization, "conv": conv.rstrip("5"), "conv_kernel": 5, "gate": gate}
    config = from_dict(LinaConfig, {**SIZES[f"width{width}"], "attention": attention})
    return float(count.FLOPS_PER_MULTIPLY_ADD * count.training_operations(config).total)


def _excluded(diverged: pd.DataFrame) -> pd.DataFrame:
    rows: list[dict[str, Any]] = [
        {
            "cell": cell,
            "label": f"{group['variant'].iloc[0]} {group['size'].iloc[0]}",
            "status": CellStatus.DIVERGED,
            "reason": f"the loss is not finite in the window that ends at iteration {group['iteration'].min():,}",
        }
        for cell, group in diverged.groupby("cell", sort=False)
    ]
    return pd.DataFrame(rows, columns=["cell", "label", "status", "reason"])
