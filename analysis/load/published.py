"""The authors' runs as a study: `analysis/published`, in the tables that our own runs make (`runs.py`).

They are one seed a cell, training loss of one rank in windows of 5,000 iterations, and no validation. Sizes were given
equal iterations and unequal batches: which view of them one takes matters (`views.py`).
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from lina_lab.config import LinaConfig, ObjectiveConfig, StudyConfig, from_dict
from lina_lab.config.presets import SIZES
from lina_lab.model import count
from lina_lab.records.runstore import TRAIN_LOSS

from .cells import KEYS
from .runs import StudyRuns

FOLDER = Path(__file__).parents[1] / "published"
CURVES, METRICS = "published_training_curves.csv", "published_metrics.csv"
NAME = "published"
ITERATIONS = 200_000
"""What the paper compares at."""
WINDOW = 5_000
FIELDS = {
    "normalization": "model.attention.normalization",
    "conv": "model.attention.conv",
    "gate": "model.attention.gate",
}
MILLION = 1e6
_MODEL = ["size", *FIELDS.values()]
SOURCE = "techmonsterwang/LINA (Apache-2.0), logs/train/*_run_4node_0_*"


def read_published() -> StudyRuns:
    """The published training runs at their 200,000 iterations."""
    curves = pd.read_csv(FOLDER / CURVES, comment="#")
    curves = curves[curves["iteration"] <= ITERATIONS]
    curves = curves.assign(
        variant=curves["normalization"] + ", " + curves["conv"] + ", " + curves["gate"],
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
        study=_study(curves),
        cells=_cells(history),
        history=history[[*KEYS, "metric", "images", "value"]],
        checkpoints=_checkpoints(curves),
        excluded=_excluded(diverged),
        source=pd.DataFrame([{"commit": SOURCE, "dirty": "unknown", "cells": history["cell"].nunique()}]),
        window=WINDOW,
    )


def _study(curves: pd.DataFrame) -> StudyConfig:
    return StudyConfig(
        name=NAME,
        question="What do the authors' own training runs show of normalisation, convolution, gates and width?",
        axes={
            **{name: {field: list(dict.fromkeys(curves[name]))} for name, field in FIELDS.items() if name != "gate"},
            "gate": {FIELDS["gate"]: ["none", *(g for g in dict.fromkeys(curves["gate"]) if g != "none")]},
            "size": {"model.dim": sorted(int(width) for width in curves["width"].unique())},
        },
        size_axis="size",
        seeds=[0],
        controlled=[
            "learning rate, warm-up and weight decay",
            "iterations (not images: the batch falls with width)",
            "seed, data order, masks, noise levels and noise, for runs of one width",
        ],
        objectives=[ObjectiveConfig(metric=TRAIN_LOSS)],
    )


def _cells(history: pd.DataFrame) -> pd.DataFrame:
    """A row for each run: the mean loss over the last quarter of its iterations, and what it was made with."""
    history = history.assign(
        flops_per_image=[_flops_per_image(*point) for point in history[["size", *FIELDS]].itertuples(index=False)]
    )
    last = history[history["iteration"] > 0.75 * ITERATIONS]
    cells = last.groupby(KEYS, sort=False).agg(
        **{name: (name, "first") for name in FIELDS},
        batch_size=("images_per_step", "first"),
        steps=("iteration", lambda _: ITERATIONS),
        flops_per_image=("flops_per_image", "first"),
        loss=("value", "mean"),
    )
    cells = cells.rename(columns={**FIELDS, "loss": TRAIN_LOSS}).reset_index()
    known = parameters()
    cells["parameters"] = [known[(row["size"], row[FIELDS["conv"]] != "none")] for row in cells.to_dict("records")]
    cells["model.dim"] = cells["size"].astype(str)
    cells["images_seen"] = cells["batch_size"] * cells["steps"]
    cells["flops"] = cells["flops_per_image"] * cells["images_seen"]
    return cells.sort_values(KEYS[1:]).reset_index(drop=True)


def parameters() -> dict[tuple[int, bool], float]:
    """(width, with convolution) -> parameters as counted from the official model classes.

    They were counted without convolution and gate, and with both; a gate alone adds less than 0.1%.
    """
    metrics = published_metrics()
    counted = metrics[metrics["metric"] == "parameters"]
    return {
        (int(row["width"]), row["conv"] != "none"): MILLION * float(row["value"]) for row in counted.to_dict("records")
    }


def published_metrics() -> pd.DataFrame:
    """Every published figure: `metric`, `value`, `unit`, `model`, axes, `iteration`, `guidance_scale`, `source`."""
    return pd.read_csv(FOLDER / METRICS, comment="#", keep_default_na=False, na_values=[""])


def _checkpoints(curves: pd.DataFrame) -> pd.DataFrame:
    """A row for each window of each run, at its end."""
    known, diverged = parameters(), set(curves.loc[curves["loss"].isna(), "cell"])
    rows = curves.rename(columns={**FIELDS, "value": TRAIN_LOSS})
    flops = [_flops_per_image(*point) * images for *point, images in rows[[*_MODEL, "images"]].itertuples(index=False)]
    return rows.assign(
        state=["diverged" if cell in diverged else "done" for cell in rows["cell"]],
        reason=["it diverged" if cell in diverged else "" for cell in rows["cell"]],
        parameters=[known[(row["size"], row[FIELDS["conv"]] != "none")] for row in rows.to_dict("records")],
        flops=flops,
    )[[*KEYS, "state", "reason", *FIELDS.values(), "parameters", "images", "flops", TRAIN_LOSS]]


@lru_cache
def _flops_per_image(width: int, normalization: str, conv: str, gate: str) -> float:
    """Of training, two for a multiply-add, as our own model of the same kind is counted."""
    attention = {"normalization": normalization, "conv": conv.rstrip("5"), "conv_kernel": 5, "gate": gate}
    config = from_dict(LinaConfig, {**SIZES[f"width{width}"], "attention": attention})
    return float(count.FLOPS_PER_MULTIPLY_ADD * count.training_operations(config).total)


def _excluded(diverged: pd.DataFrame) -> pd.DataFrame:
    rows: list[dict[str, Any]] = [
        {
            "cell": cell,
            "label": f"{group['variant'].iloc[0]} {group['size'].iloc[0]}",
            "status": "diverged",
            "reason": f"not finite in the window that ends at iteration {group['iteration'].min():,}, and left running",
        }
        for cell, group in diverged.groupby("cell", sort=False)
    ]
    return pd.DataFrame(rows, columns=["cell", "label", "status", "reason"])
