"""The authors' published training runs as a study, in the same tables as our own (`runs.py`).

There is one seed per cell, the training loss of one rank in windows of 5,000 iterations, and no validation. Sizes had
equal iterations and unequal batches, so results depend on the budget at which sizes are compared (`stats/budgets.py`).
"""

from functools import lru_cache
from pathlib import Path

import pandas as pd

from lina_lab.config import LinaConfig, ObjectiveConfig, StudyConfig, TrialConfig, from_dict
from lina_lab.config.factors import FACTORS, IMAGES
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
RECIPE = {
    "optimizer": {"lr": 8e-4, "weight_decay": 0.02},
    "ema": {"decay": 0.99, "every_n_steps": 100},
}
"""What all runs had in common, see docs/lina.md."""
WARMUP_ITERATIONS = 10_000
WINDOW = 5_000
"""Iterations that each point of a published curve averages."""
FIELDS = {name: f"model.attention.{name}" for name in ("normalization", "conv", "gate")}
"""Column of the published tables -> field."""
AXES = {"normalization": "normalization", "conv": "convolution", "gate": "gate"}
"""Column of the published tables -> axis."""
MILLION = 1e6
FID = "eval/fid_inception"
SOURCE = "techmonsterwang/LINA (Apache-2.0), logs/train/*_run_4node_0_*"


def read_published() -> StudyRuns:
    """Read the published training runs up to iteration 200,000."""
    curves = pd.read_csv(FOLDER / CURVES, comment="#")
    curves = curves[curves["iteration"] <= ITERATIONS]
    study = _study(curves)
    known, points = parameters(), list(curves[["width", *FIELDS]].itertuples(index=False, name=None))
    labels = {point: variant_label(study, dict(zip(FIELDS.values(), point[1:], strict=True))) for point in set(points)}
    curves = curves.assign(
        variant=[labels[point] for point in points],
        parameters=[known[(width, conv != "none")] for width, _, conv, _ in points],
        flops_per_image=[_flops_per_image(*point) for point in points],
        cell=curves["official_name"] + "_" + curves["width"].astype(str),
        size=curves["width"],
        seed=0,
        images=curves["iteration"] * curves["images_per_step"],
        metric=TRAIN_LOSS,
        value=curves["loss"],
    )
    diverged = curves[curves["loss"].isna()]
    history = curves[~curves["cell"].isin(diverged["cell"])].reset_index(drop=True)
    cells = _cells(history)
    return StudyRuns(
        study=study,
        cells=cells,
        history=pd.concat([history[[*KEYS, "metric", "images", "value"]], _fid_points(cells)], ignore_index=True),
        checkpoints=_checkpoints(curves),
        excluded=_excluded(diverged),
        source=pd.DataFrame([{"commit": SOURCE, "dirty": "unknown", "cells": history["cell"].nunique()}]),
        window=WINDOW,
        diverged=diverged[KEYS].drop_duplicates().reset_index(drop=True),
    )


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
        objectives=[ObjectiveConfig(metric=TRAIN_LOSS), ObjectiveConfig(metric=FID)],
    )


def _cells(history: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each run: its settings, and the mean loss over the last quarter of its iterations."""
    last = history[history["iteration"] > 0.75 * ITERATIONS]
    cells = last.groupby(KEYS, sort=False).agg(
        **{name: (name, "first") for name in (*FIELDS, "parameters", "flops_per_image")},
        batch=("images_per_step", "first"),
        loss=("value", "mean"),
    )
    cells = cells.rename(columns={**FIELDS, "loss": TRAIN_LOSS}).reset_index()
    cells["model.dim"] = cells["size"].astype(str)
    trials = [_trial(int(width), int(batch)) for width, batch in zip(cells["size"], cells.pop("batch"), strict=True)]
    cells = cells.assign(**{name: [factor.value(trial) for trial in trials] for name, factor in FACTORS.items()})
    cells["flops"] = cells["flops_per_image"] * cells[IMAGES]
    cells = cells.merge(published_fids(), on=[*FIELDS.values(), "size"], how="left")
    return cells.sort_values(KEYS[1:]).reset_index(drop=True)


def published_fids() -> pd.DataFrame:
    """Return the FID of the runs at the iteration of the comparison, without guidance: the fields, `size`, FID."""
    metrics = published_metrics()
    held = (metrics["metric"] == "fid") & (metrics["iteration"] == ITERATIONS) & (metrics["guidance_scale"] == 1.0)
    fids = metrics[held].astype({"width": int}).rename(columns={**FIELDS, "width": "size", "value": FID})
    return fids[[*FIELDS.values(), "size", FID]]


def _fid_points(cells: pd.DataFrame) -> pd.DataFrame:
    """Return a row of history for each FID that is held."""
    held = cells.dropna(subset=[FID])
    return held[KEYS].assign(metric=FID, images=held[IMAGES], value=held[FID])


def _trial(width: int, batch: int) -> TrialConfig:
    """Return the configuration of a run up to the attention, which no factor depends on."""
    optimizer = RECIPE["optimizer"] | {"warmup_images": WARMUP_ITERATIONS * batch}
    data = {"name": "latents", "path": NAME, "batch_size": batch}
    trainer = {"max_images": ITERATIONS * batch}
    sections = {**RECIPE, "model": SIZES[f"width{width}"], "data": data, "optimizer": optimizer, "trainer": trainer}
    return from_dict(TrialConfig, sections)


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
    diverged = curves["cell"].isin(curves.loc[curves["loss"].isna(), "cell"])
    return curves.rename(columns={**FIELDS, "value": TRAIN_LOSS}).assign(
        state=diverged.map({True: CellStatus.DIVERGED, False: CellStatus.DONE}),
        reason=diverged.map({True: "it diverged", False: ""}),
        flops=curves["flops_per_image"] * curves["images"],
    )[[*KEYS, "state", "reason", *FIELDS.values(), "parameters", "images", "flops", TRAIN_LOSS]]


@lru_cache
def _flops_per_image(width: int, normalization: str, conv: str, gate: str) -> float:
    """Return the training FLOPs per image, two per multiply-add, counted on our own model of the same kind."""
    attention = {"normalization": normalization, "conv": conv.rstrip("5"), "conv_kernel": 5, "gate": gate}
    config = from_dict(LinaConfig, {**SIZES[f"width{width}"], "attention": attention})
    return float(count.FLOPS_PER_MULTIPLY_ADD * count.training_operations(config).total)


def _excluded(diverged: pd.DataFrame) -> pd.DataFrame:
    first = diverged.sort_values("iteration", kind="stable").drop_duplicates("cell")
    reason = "the loss is not finite in the window that ends at iteration {:,}"
    return first.assign(
        label=first["variant"] + " " + first["size"].astype(str),
        status=CellStatus.DIVERGED,
        reason=first["iteration"].map(reason.format),
    )[["cell", "label", "status", "reason"]].reset_index(drop=True)
