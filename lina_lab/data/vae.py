"""The autoencoder between images and latents: any diffusers `AutoencoderKL`, from a folder or the hub."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lina_lab.data.pretrained import weights_sha256
from lina_lab.util.errors import first_line

NOT_INSTALLED = "an autoencoder needs diffusers: pip install 'lina_lab[vae]'"


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """Images in -1..1, [B, 3, H, W], to moments of latents and back."""

    model: Any
    """The diffusers model."""
    name: str
    """Folder or hub name that it was loaded from."""

    @property
    def device(self) -> torch.device:
        """The device that it computes on."""
        return next(iter(self.model.parameters())).device  # type: ignore[no-any-return]

    def sha256(self) -> str:
        """The SHA-256 of the weights."""
        return weights_sha256(self.model)

    @torch.no_grad()
    def moments(self, images: Tensor) -> Tensor:
        """Mean, then log variance, of the posterior of images [B, 3, H, W]: float32 [B, 2C, h, w]."""
        posterior = self.model.encode(images.to(self.device)).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], dim=1).float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, 3, H, W] of latents [B, C, h, w] in the autoencoder's own scale, not of unit variance."""
        images: Tensor = self.model.decode(latents.to(self.device)).sample
        return images.float()


def load_vae(name: str, device: torch.device | str = "cpu") -> Autoencoder:
    """Load an autoencoder; its weights are safetensors.

    Args:
        name: folder or hub name of a diffusers autoencoder, or of a pipeline that has one under `vae`.
        device: to compute on.

    Raises:
        ValueError: it is not there, holds no autoencoder, or diffusers is not installed.
    """
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise ValueError(NOT_INSTALLED) from error
    try:
        model = _load(AutoencoderKL, name)
    except Exception as error:
        # A damaged folder raises a dozen kinds of errors, some of them from libraries beneath diffusers.
        raise ValueError(f"vae={name} is no autoencoder that can be loaded: {first_line(error)}") from error
    return Autoencoder(model=model.eval().requires_grad_(False).to(device), name=name)


def _load(kind: Any, name: str) -> Any:
    options = {"use_safetensors": True, "output_loading_info": True}
    try:
        model, report = kind.from_pretrained(name, **options)
    except OSError as error:
        try:
            model, report = kind.from_pretrained(name, subfolder="vae", **options)
        except OSError:
            # The error of the folder that was named, not of the pipeline that it might have been.
            raise error from None
    if lacking := [*report["missing_keys"], *report["mismatched_keys"]]:
        # diffusers would initialize them at random, differently each time.
        raise ValueError(f"its file lacks weights, such as {lacking[0]}")
    return model
