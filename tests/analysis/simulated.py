"""Studies of any shape with planted effects and with noise that variants of one seed have in common."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
from lina_lab.analysis.load.labels import variant_label
from lina_lab.analysis.load.runs import StudyRuns, checkpoint_rows, variant_fields

from lina_lab.config import StudyConfig, from_dict

FOUR: dict[str, Any] = {
    "normalization": {"model.attention.normalization": ["division", "subtraction"]},
    "convolution": {"model.attention.conv": ["none", "depthwise"]},
}
ELEVEN: dict[str, Any] = {
    "gate": {"model.attention.gate": ["none", *(f"gate{number}" for number in range(1, 11))]},
}
PRIMARY = {
    "axis": "normalization",
    "treatment": "subtraction",
    "baseline": "division",
    "at": {"convolution": "depthwise"},
    "margin": 0.02,
}
STEPS, BATCH, CHECKPOINTS = 120, 32, 6
E, ALPHA, BETA = 0.3, 0.3, 0.4
CONFIGURED = {"batch in images": BATCH, "images seen": STEPS * BATCH, "optimizer steps": STEPS, "learning rate": 0.002}


def simulated(
    axes: dict[str, Any] = FOUR,
    sizes: tuple[int, ...] = (16, 32, 64),
    seeds: int = 8,
    effect: float = 0.06,
    noise: float = 0.01,
    **study: Any,
) -> StudyRuns:
    """Make a study with losses `E + A N^-alpha + B D^-beta`.

    Args:
        axes: the axes that make variants; each further variant has a coefficient A that is smaller by `effect`.
        sizes: widths.
        seeds: of each cell.
        effect: relative difference of A between neighboring variants.
        noise: standard deviation of the logarithm of a run's loss; half of it is its seed's and not its variant's.
        study: further fields of `StudyConfig`.
    """
    fields = {"name": "planted", "question": "Is the truth found?", "size_axis": "size", "seeds": list(range(seeds))}
    config = from_dict(
        StudyConfig,
        {**fields, "axes": {**axes, "size": {"model.dim": list(sizes)}}, **study},
    )
    rng, cells, points = np.random.default_rng(0), [], []
    common = rng.normal(size=(seeds, len(sizes), STEPS))
    names = [name for axis in axes.values() for name in axis]
    for index, values in enumerate(itertools.product(*(axis[name] for axis in axes.values() for name in axis))):
        own = dict(zip(names, values, strict=True))
        for place, size in enumerate(sizes):
            parameters = 200.0 * size**2
            for seed in range(seeds):
                keys = {
                    "cell": f"{index}-{size}-{seed}",
                    "variant": variant_label(config, own),
                    "size": size,
                    "seed": seed,
                }
                level = np.exp(noise * (common[seed, place, 0] + rng.normal()) / np.sqrt(2))

                def loss(images: Any, index: int = index, level: Any = level, parameters: float = parameters) -> Any:
                    size_term = 8 * (1 - effect * index / len(sizes)) * parameters**-ALPHA
                    return (E + size_term + 6 * np.maximum(images, BATCH) ** -BETA) * level

                seen = np.arange(STEPS) * BATCH
                steps = loss(seen) + 0.05 * common[seed, place] + 0.005 * rng.normal(size=STEPS)
                points += [
                    {**keys, "metric": "train/loss", "images": i, "value": v} for i, v in zip(seen, steps, strict=True)
                ]
                for images in np.linspace(0, STEPS * BATCH, CHECKPOINTS + 1)[1:].astype(int):
                    points.append({**keys, "metric": "val/loss_ema", "images": images, "value": loss(images)})
                    points.append({**keys, "metric": "val/loss_raw", "images": images, "value": loss(images) + 0.01})
                last = float(loss(STEPS * BATCH))
                distance = 20 * last + rng.normal()
                points.append({**keys, "metric": "eval/fid_pixels", "images": STEPS * BATCH, "value": distance})
                cells.append(
                    {
                        **keys,
                        **own,
                        "model.dim": size,
                        "state": "done",
                        "reason": "",
                        "parameters": parameters,
                        "body_parameters": parameters * 0.9,
                        "flops_per_image": 6.0 * parameters * 16,
                        "flops": 6.0 * parameters * 16 * STEPS * BATCH,
                        "train/loss": float(steps[-30:].mean()),
                        "val/loss_raw": last + 0.01,
                        "val/loss_ema": last,
                        "eval/fid_pixels": distance,
                        "images_per_second": 100.0,
                        "fit_seconds": 1.0,
                        "peak_memory_mib": 1.0,
                        **CONFIGURED,
                    }
                )
    every, history = pd.DataFrame(cells), pd.DataFrame(points)
    return StudyRuns(
        study=config,
        cells=every,
        history=history,
        checkpoints=checkpoint_rows(
            every.assign(run=every["cell"]), history.rename(columns={"cell": "run"}), variant_fields(config)
        ),
        excluded=pd.DataFrame(columns=["cell", "label", "status", "reason"]),
        source=pd.DataFrame([{"commit": "abc", "dirty": "false", "cells": len(cells)}]),
    )
