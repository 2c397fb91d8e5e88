"""What one step gets from the data."""

from typing import Any

from torch import Tensor

Batch = tuple[Tensor, dict[str, Any]]
"""Latents float32 [B, C, H, W], and the conditions of the images: `label` int64 [B]; or `captions`, a list of B; or
`text` [B, l, d] with `present` bool [B, l]; or nothing. Where damaged images were skipped, `damaged` lists them, see
`StepDataModule.damaged`: the process that read the batch may be a worker."""
