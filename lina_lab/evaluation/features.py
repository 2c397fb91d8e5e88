"""Features that images are compared by: Inception's, as ADM's evaluation takes them, or the pixels themselves."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lina_lab.data.pixels import Pixels, channels_first

Rows = npt.NDArray[np.float32]
SPATIAL_CHANNELS = 7
"""Channels of the block mixed_6 that sFID takes: 17 x 17 x 7 numbers an image."""
MAX_NUMBERS = 32 * 32 * 3
"""Most numbers of an image that is compared by its pixels: roots of such covariances take a minute or two, and with
twice as many numbers eight times as long."""
WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
NO_WEIGHTS = (
    f"the Inception network's weights are not here: download {WEIGHTS_FILE} from the releases of torch-fidelity and "
    "give inception=FILE, or take features=pixels"
)


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of images, one row for each image."""

    pool: Rows
    """[n, d]: for FID, KID, precision and recall."""
    spatial: Rows | None = None
    """[n, 2023]: for sFID; height, then width, then channel."""
    probabilities: Rows | None = None
    """[n, 1008]: for the inception score."""


Extractor = Callable[[Tensor], Features]
"""A function from uint8 [n, 3, H, W] to features."""


def pixels(weights: str | None, device: torch.device | str) -> Extractor:
    """An extractor that gives the image's numbers in -1..1, each three times for a gray image. For small images.

    Raises:
        ValueError: when it is called with images of more than MAX_NUMBERS numbers.
    """

    def extractor(images: Tensor) -> Features:
        count = images[0].numel()
        if count > MAX_NUMBERS:
            raise ValueError(
                f"features=pixels of {images.shape[-2]} x {images.shape[-1]} pixels are {count:,} numbers, and of more "
                f"than {MAX_NUMBERS:,} the distance takes too long: take Inception's features"
            )
        return Features(pool=(images.flatten(1).float() / 127.5 - 1).numpy())

    return extractor


def inception(weights: str | None, device: torch.device | str) -> Extractor:
    """An extractor by Inception-v3 of the TensorFlow graph of 2015, ported by torch-fidelity, which resizes as it does.

    Args:
        weights: file of its weights; None: torch-fidelity's in torch's cache of downloads.
        device: to compute on.

    Raises:
        ValueError: the weights are not there, or torch-fidelity is not installed.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ValueError("features=inception needs torch-fidelity: pip install 'lina_lab[eval]'") from error
    path = inception_file(weights)
    try:
        # torch-fidelity unpickles the file: it must hold nothing but numbers.
        torch.load(path, map_location="meta", weights_only=True)
        network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(path)).to(device)
    except Exception as error:
        raise ValueError(f"{path} does not hold the Inception network's weights: {error}") from error
    return _Inception(network, device)


def inception_file(weights: str | None) -> Path:
    """The file of the Inception network's weights.

    Args:
        weights: the file; None: torch-fidelity's in torch's cache of downloads.

    Raises:
        ValueError: it is not there.
    """
    path = Path(weights) if weights else Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_FILE
    if not path.exists():
        raise ValueError(NO_WEIGHTS if weights is None else f"inception={weights}: there is no such file")
    return path


class _Inception:
    """Calls the network, and keeps what a block in its middle gives."""

    def __init__(self, network: nn.Module, device: torch.device | str) -> None:
        self.network, self.device = network, device
        self.spatial: Tensor | None = None
        network.get_submodule("Mixed_6d").register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self.spatial = output[:, :SPATIAL_CHANNELS]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        pool, logits = self.network(images.to(self.device))
        assert self.spatial is not None
        return Features(
            pool=pool.float().cpu().numpy(),
            spatial=self.spatial.permute(0, 2, 3, 1).flatten(1).float().cpu().numpy(),
            probabilities=logits.softmax(dim=1).float().cpu().numpy(),
        )


FEATURES: dict[str, Callable[[str | None, torch.device | str], Extractor]] = {"pixels": pixels, "inception": inception}
"""Name -> maker of the extractor, from the file of its weights and a device."""


def extract(images: Iterable[Pixels], extractor: Extractor) -> Features:
    """The features of all images.

    Args:
        images: batches, uint8 [n, H, W, 3].
        extractor: see `FEATURES`.

    Raises:
        ValueError: there are no images.
    """
    found = [extractor(channels_first(batch)) for batch in images]
    if not found:
        raise ValueError("there are no images")

    parts = {field.name: [getattr(each, field.name) for each in found] for field in fields(Features)}
    return Features(**{name: None if part[0] is None else np.concatenate(part) for name, part in parts.items()})  # type: ignore[arg-type]
