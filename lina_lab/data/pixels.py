"""Images of pixels: uint8 [n, H, W, 3] as files have them, and float [n, C, H, W] in -1..1 as models do."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Pixels = npt.NDArray[np.uint8]
"""One image [H, W, 3], or several [n, H, W, 3]."""


def to_pixels(images: Tensor) -> Pixels:
    """Images in -1..1, [n, C, H, W] with one or three channels, as uint8 [n, H, W, 3].

    Raises:
        ValueError: another number of channels.
    """
    if images.shape[1] not in (1, 3):
        raise ValueError(
            f"{images.shape[1]} channels are no pixels: name the decoder of these latents with vae=NAME shards=FOLDER, "
            "or with sampling.vae=NAME in a study"
        )
    levels = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()


def channels_first(pixels: Pixels) -> Tensor:
    """Pixels as uint8 [n, 3, H, W]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def from_pixels(pixels: Pixels) -> Tensor:
    """Pixels as float32 [n, 3, H, W] in -1..1."""
    return channels_first(pixels).float() / 127.5 - 1
