"""Studies with a planted truth."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lina_lab.analysis.load.runs import StudyRuns, checkpoint_rows, variant_fields

from lina_lab.config import StudyConfig, from_dict

STUDY: dict[str, Any] = {
    "name": "planted",
    "question": "Is the truth found?",
    "axes": {
        "normalization": {"model.attention.normalization": ["division", "subtraction"]},
        "convolution": {"model.attention.conv": ["none", "depthwise"]},
        "size": {"model.dim": [16, 32]},
    },
    "size_axis": "size",
    "seeds": [0, 1, 2],
}
STEPS, BATCH = 200, 32
LABELS = {"none": "no convolution", "depthwise": "depthwise"}


@pytest.fixture
def planted() -> Callable[..., StudyRuns]:
    """Makes the runs of a study: a loss of the cell plus noise that variants of one seed have in common."""

    def make(effect: Callable[[str, str, int, int], float], seeds: int = 3, own_noise: float = 0.01) -> StudyRuns:
        cells, history = [], []
        rng = np.random.default_rng(0)
        for seed in range(seeds):
            common = rng.normal(0, 1.0, STEPS)
            for normalization in ("division", "subtraction"):
                for conv in ("none", "depthwise"):
                    for size in (16, 32):
                        loss = 2 + effect(normalization, conv, size, seed)
                        keys = {
                            "cell": f"{normalization}{conv}{size}{seed}",
                            "variant": f"{normalization}, {LABELS[conv]}",
                            "size": size,
                            "seed": seed,
                        }
                        cells.append(
                            {
                                **keys,
                                "model.attention.normalization": normalization,
                                "model.attention.conv": conv,
                                "model.dim": size,
                                "state": "done",
                                "reason": "",
                                "parameters": size**2,
                                "body_parameters": size**2 - size,
                                "flops_per_image": 6.0 * size**2,
                                "train/loss": loss,
                                "val/loss_raw": loss + 0.1,
                                "val/loss_ema": loss,
                                "images_per_second": 100.0,
                                "fit_seconds": 1.0,
                                "peak_memory_mib": 1.0,
                            }
                        )
                        noisy = loss + common + rng.normal(0, own_noise, STEPS)
                        for step, value in enumerate(noisy):
                            history.append({**keys, "metric": "train/loss", "images": step * BATCH, "value": value})
                        for metric, last in (("val/loss_raw", loss + 0.1), ("val/loss_ema", loss)):
                            # The first check is as unlike the last as may be.
                            for images, value in ((STEPS * BATCH // 2, 9.0 - last), (STEPS * BATCH, last)):
                                history.append({**keys, "metric": metric, "images": images, "value": value})
        study, every, points = from_dict(StudyConfig, STUDY), pd.DataFrame(cells), pd.DataFrame(history)
        return StudyRuns(
            study=study,
            cells=every,
            history=points,
            checkpoints=checkpoint_rows(
                every.assign(run=every["cell"]), points.rename(columns={"cell": "run"}), variant_fields(study)
            ),
            excluded=pd.DataFrame(columns=["cell", "label", "status", "reason"]),
            source=pd.DataFrame([{"commit": "abc", "dirty": "false", "cells": len(cells)}]),
        )

    return make
