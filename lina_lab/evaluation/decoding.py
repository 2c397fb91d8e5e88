"""Latents of unit variance, as a model of shards has them, to pixels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lina_lab.data.pixels import Pixels, to_pixels
from lina_lab.data.shards.format import read_manifest
from lina_lab.data.vae import load_vae

DECODE_BATCH_SIZE = 16
"""Images decoded together: one of 256 pixels takes a hundred times the memory of its latent."""


def decoder_of(vae: str, shards: Path, device: torch.device | str) -> Callable[[Tensor], Pixels]:
    """A function from latents [n, C, h, w] to uint8 [n, H, W, 3].

    Args:
        vae: folder or hub name of the autoencoder.
        shards: the folder that the model was trained on; its manifest says how latents were scaled.
        device: to decode on.

    Raises:
        ValueError: it is not the autoencoder that made the shards, or one of both cannot be read.
    """
    manifest = read_manifest(shards)
    if manifest.vae is None:
        raise ValueError(f"{shards} holds pixels, which vae={vae} does not decode: leave out vae and shards")
    autoencoder = load_vae(vae, device)
    if manifest.vae_sha256 != autoencoder.sha256():
        raise ValueError(f"vae={vae} is not the autoencoder that made {shards}, which was {manifest.vae}")
    mean, std = (torch.tensor(v, device=device).reshape(-1, 1, 1) for v in (manifest.mean, manifest.std))

    def decode(latents: Tensor) -> Pixels:
        batches = (latents.to(device) * std + mean).split(DECODE_BATCH_SIZE)  # type: ignore[no-untyped-call]
        return np.concatenate([to_pixels(autoencoder.decode(batch)) for batch in batches])

    return decode
