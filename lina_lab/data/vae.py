"""The autoencoder between images and latents: one of diffusers' classes, from a folder or the hub."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lina_lab.data.pretrained import hub_options, weights_sha256
from lina_lab.util.errors import first_line

NOT_INSTALLED = "an autoencoder needs diffusers: pip install 'lina_lab[vae]'"
OF_IMAGES = (
    "AutoencoderKL",
    "AsymmetricAutoencoderKL",
    "AutoencoderDC",
    "AutoencoderTiny",
    "AutoencoderKLFlux2",
    "VQModel",
)
"""Classes of diffusers that encode [B, 3, H, W]."""
OF_FRAMES = ("AutoencoderKLQwenImage", "AutoencoderKLWan")
"""Those that encode [B, 3, T, H, W], where an image is a video of one frame."""
CERTAIN = ("AutoencoderDC", "AutoencoderTiny", "VQModel")
"""Those that give one latent for an image, and no posterior."""
SUBFOLDER = "vae"
"""Where a pipeline has its autoencoder."""


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """Images in -1..1, [B, 3, H, W], to moments of latents and back."""

    model: Any
    """The diffusers model."""
    name: str
    """Folder or hub name that it was loaded from."""

    @property
    def kind(self) -> str:
        """Name of its class."""
        return type(self.model).__name__

    @property
    def certain(self) -> bool:
        """Whether it gives one latent for an image, and no posterior."""
        return self.kind in CERTAIN

    @property
    def device(self) -> torch.device:
        """The device that it computes on."""
        return next(iter(self.model.parameters())).device  # type: ignore[no-any-return]

    def sha256(self) -> str:
        """The SHA-256 of the weights."""
        return weights_sha256(self.model)

    @torch.no_grad()
    def moments(self, images: Tensor) -> Tensor:
        """What is known of the latents of images [B, 3, H, W], float32.

        Returns:
            Mean, then log variance, of the posterior: [B, 2C, h, w]; the latent alone, [B, C, h, w], where
            it is `certain`.
        """
        images = images.to(self.device)
        encoded = self.model.encode(images.unsqueeze(2) if self.kind in OF_FRAMES else images)
        if self.certain:
            moments: Tensor = encoded.latent if "latent" in encoded else encoded.latents
        else:
            moments = torch.cat([encoded.latent_dist.mean, encoded.latent_dist.logvar], dim=1)
        return (moments.squeeze(2) if self.kind in OF_FRAMES else moments).float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, 3, H, W] of latents [B, C, h, w] in the autoencoder's own scale, not of unit variance."""
        latents = latents.to(self.device)
        if self.kind in OF_FRAMES:
            frames: Tensor = self.model.decode(latents.unsqueeze(2)).sample
            return frames.squeeze(2).float()
        images: Tensor = self.model.decode(latents).sample
        return images.float()

    def published(self, channels: int | None) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of the latents as the autoencoder's configuration states them.

        diffusers' pipelines scale latents so: z' = (z - shift_factor) * scaling_factor, or with latents_mean and
        latents_std for each channel.

        Args:
            channels: of a latent; None: as many as are stated, or one.

        Raises:
            ValueError: it states none, or for another number of channels.
        """
        config = self.model.config
        scale, shift = config.get("scaling_factor"), config.get("shift_factor")
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is None and std is None and scale is None:
            raise ValueError(
                f"vae={self.name} is an {self.kind} that states no statistics of its latents: leave out "
                "latent_statistics, which are measured then"
            )
        count = channels or len(mean or std or [0])
        means = [float(shift or 0)] * count if mean is None else [float(each) for each in mean]
        stds = [1.0] * count if std is None else [float(each) for each in std]
        if not len(means) == len(stds) == count:
            counts = f"of {len(means)} and {len(stds)} channels, and its latents have {count}"
            raise ValueError(f"vae={self.name} states latents_mean and latents_std {counts}")
        return means, [each / float(scale or 1) for each in stds]


def load_vae(name: str, device: torch.device | str = "cpu") -> Autoencoder:
    """Load an autoencoder; its weights are safetensors.

    Args:
        name: folder or hub name of a diffusers autoencoder, or of a pipeline that has one under `vae`.
        device: to compute on.

    Raises:
        ValueError: it is not there, holds no autoencoder that is known, or diffusers is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise ValueError(NOT_INSTALLED) from error
    options = hub_options(name, f"vae={name}")
    try:
        config, place = _config(diffusers, name, options)
        kind = str(config.get("_class_name"))
        model = _load(getattr(diffusers, kind), name, {**options, **place}) if kind in OF_IMAGES + OF_FRAMES else None
    except Exception as error:
        # A damaged folder raises a dozen kinds of errors, some of them from libraries beneath diffusers.
        raise ValueError(f"vae={name} is no autoencoder that can be loaded: {first_line(error)}") from error
    if model is None:
        raise ValueError(f"vae={name} is of the class {kind}: known are {', '.join(OF_IMAGES + OF_FRAMES)}")
    return Autoencoder(model=model.eval().requires_grad_(False).to(device), name=name)


def _config(diffusers: Any, name: str, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The configuration of an autoencoder, and which folder it is in."""
    load = diffusers.AutoencoderKL.load_config
    try:
        return load(name, **options), {}
    except OSError as error:
        try:
            return load(name, subfolder=SUBFOLDER, **options), {"subfolder": SUBFOLDER}
        except OSError:
            # The error of the folder that was named, not of the pipeline that it might have been.
            raise error from None


def _load(kind: Any, name: str, options: dict[str, Any]) -> Any:
    # Without low_cpu_mem_usage=False, diffusers asks for `accelerate` in five lines at every command.
    model, report = kind.from_pretrained(
        name, use_safetensors=True, output_loading_info=True, low_cpu_mem_usage=False, **options
    )
    if lacking := [*report["missing_keys"], *report["mismatched_keys"]]:
        # diffusers would initialize them at random, differently each time.
        raise ValueError(f"its file lacks weights, such as {lacking[0]}")
    return model
