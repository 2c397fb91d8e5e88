"""Factors that a reader assumes to be equal across sizes: `lina plan` and the report of a study check the same ones."""

from collections.abc import Callable, Mapping
from typing import Final

from lina_lab.config.trial import TrialConfig

Factors = Mapping[str, Callable[[TrialConfig], float]]
IMAGES: Final = "images seen"
BATCH: Final = "batch size"
STEPS: Final = "optimizer steps"
WARMUP_SHARE: Final = "share of the budget in warm-up"
TRAINING: Factors = {
    BATCH: lambda trial: trial.data.batch_size,
    IMAGES: lambda trial: trial.images_seen,
    STEPS: lambda trial: trial.max_steps,
    "learning rate": lambda trial: trial.optimizer.lr,
    "warm-up images": lambda trial: trial.optimizer.warmup_images,
    WARMUP_SHARE: lambda trial: trial.optimizer.warmup_images / trial.trainer.max_images,
    "images that the average reaches back": lambda trial: (
        trial.ema.every_n_steps * trial.data.batch_size / (1 - trial.ema.decay)
    ),
}
"""Factors of training. If one changes with size, a difference between sizes cannot be attributed to size."""
SHAPE: Factors = {
    "depth": lambda trial: trial.model.condition_depth + trial.model.depth,
    "depth of the flow head": lambda trial: trial.model.flow_depth,
    "heads": lambda trial: trial.model.num_heads,
    "channels of a head": lambda trial: trial.model.dim // trial.model.num_heads,
    "image tokens": lambda trial: trial.model.num_tokens,
}
"""Factors of the model's shape. They may grow with it: a law of size is a law of such a family of models."""
FACTORS: Factors = {**TRAINING, **SHAPE}
