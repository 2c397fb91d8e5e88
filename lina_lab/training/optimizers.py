"""Built-in optimizers; their entries are in `lina_lab/config/optimizers.py`."""

from typing import Any

import torch

from lina_lab.config import OptimizerConfig


def adamw(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Fused AdamW for groups of parameters, each with its own weight decay."""
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
