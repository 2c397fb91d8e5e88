"""What one step gets from the data, and the name of the data's state in checkpoints."""

from typing import Any

from torch import Tensor

DATA_STATE = "data"
"""Name of a data module's state in checkpoints, whatever its class."""
Batch = tuple[Tensor, dict[str, Any]]
"""Latents float32 [B, C, H, W], and the conditions of the images: `label` int64 [B]; or `captions`, a list of B; or
`text` [B, l, d] with `present` bool [B, l]; or nothing. Where damaged images were skipped, `damaged` lists them, see
`StepDataModule.damaged`: the process that read the batch may be a worker."""
