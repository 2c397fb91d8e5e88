"""A study in which everything that a training may start from, and keep, is at work at once."""

from typing import Any

from tests.conftest import STUDY, TINY

STAGED: dict[str, Any] = {
    "study": STUDY
    | {
        "axes": {
            "way": {
                "trainer.max_images": [960, 1920, 960],
                "optimizer.schedule": ["constant", "wsd", "cosine"],
                "optimizer.cooldown": [None, 0.5, None],
                "start.state": ["training", "training", "weights"],
            },
            "size": {"model.dim": [8]},
        },
        "labels": {"way": ["trunk", "branch", "tuned"]},
        "stages": {
            "axis": "way",
            "starts": {"branch": "trunk", "tuned": "trunk"},
            "not_compared": ["trunk"],
        },
    },
    "model": TINY["model"] | {"attention": {"normalization": "subtraction"}},
    "optimizer": {"lr": 1e-3, "clip_norm": 0.5},
    "ema": TINY["ema"] | {"profiles": [0.05, 0.1], "lengths": [0.07]},
    "trainer": {"max_images": 960, "val_every_images": 480},
}
"""A trunk, a cooldown branch that goes on with it, and a cell that begins with its weights; clipped, with profiles."""
