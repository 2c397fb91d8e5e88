"""Latents as a model of shards has them, of unit variance, to pixels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lina_lab.data.shards.format import read_manifest
from lina_lab.data.vae import load_vae
from lina_lab.evaluation.sampling import Pixels, to_pixels

PORTION = 16
"""Images decoded together: one of 256 pixels takes a hundred times the memory of its latent."""


def decoder_of(vae: str, shards: Path, device: torch.device | str) -> Callable[[Tensor], Pixels]:
    """Latents [n, C, h, w] to uint8 [n, H, W, 3].

    Args:
        vae: folder or hub name of the autoencoder.
        shards: what the model was trained on; their manifest says how latents were scaled.
        device: to decode on.

    Raises:
        ValueError: it is not the autoencoder that made the shards, or one of both cannot be read.
    """
    manifest, autoencoder = read_manifest(shards), load_vae(vae, device)
    if manifest.vae_sha256 != autoencoder.sha256():
        raise ValueError(f"vae={vae} is not the autoencoder that made {shards}, which was {manifest.vae}")
    mean, std = (torch.tensor(v, device=device).reshape(-1, 1, 1) for v in (manifest.mean, manifest.std))

    def decode(latents: Tensor) -> Pixels:
        parts = (latents.to(device) * std + mean).split(PORTION)  # type: ignore[no-untyped-call]
        return np.concatenate([to_pixels(autoencoder.decode(part)) for part in parts])

    return decode
