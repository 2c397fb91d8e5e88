"""FID during training: the Fréchet distance between features of generated and of real images."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from lina_lab.config import TrialConfig
from lina_lab.config.datasets import DATA_SETS
from lina_lab.data.modules.base import StepDataModule
from lina_lab.data.pixels import Pixels, channels_first, to_pixels
from lina_lab.evaluation.decoding import decoder_of
from lina_lab.evaluation.features import FEATURES, Extractor
from lina_lab.evaluation.images import READ_BATCH_SIZE, has_images, open_images, read_statistics
from lina_lab.evaluation.moments import Gaussian, Moments, frechet_distance, merged, moments_of
from lina_lab.evaluation.sampling import Condition, generate
from lina_lab.model import LINA
from lina_lab.records.runstore import EVALUATION
from lina_lab.training.callbacks.ema import ExponentialAverage
from lina_lab.training.callbacks.evaluation import Evaluation
from lina_lab.training.work_partition import WorkPartition
from lina_lab.util.seeds import seeded

METRICS = {"pixels": f"{EVALUATION}fid_pixels", "inception": f"{EVALUATION}fid_inception"}
"""The metric of each `sampling.quality_features`."""
FID_BATCH_SIZE = 250
"""Images generated together."""
REFERENCE_IMAGES = 10_000
"""Training images that stand for the data where no reference is configured, the first ones."""


def in_proportion(labels: Tensor, indices: range, total: int) -> Tensor:
    """The classes, int64 [n], of some of `total` images, which have classes as often as `labels`, int64 [N], do."""
    places = (2 * torch.tensor(indices) + 1) * len(labels) // (2 * total)
    return labels.sort().values[places]


class FIDCallback(Evaluation):
    """Generates images without guidance, of the same classes, orders and noise for every trial, and measures FID.

    Ranks share the work, unless the weights are sharded. Autoencoder, network and reference are loaded before training
    begins, so that what is wrong with them costs no training.

    Args:
        config: the trial.
        average: see `Evaluation`.
    """

    state_key = "Quality"
    """Its name in checkpoints, since version 0.1."""

    def __init__(self, config: TrialConfig, average: ExponentialAverage) -> None:
        super().__init__(config, average)
        self._decode: Callable[[Tensor], Pixels] = to_pixels
        self._extract: Extractor
        self._reference: Gaussian | None = None
        self._weighted = config.model.num_classes is not None and DATA_SETS[config.data.name].weighted_classes
        self._labels = torch.empty(0, dtype=torch.long)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        sampling, device = self.config.sampling, pl_module.device
        if self._weighted:
            # A data set of another package that lacks them costs no training.
            self._labels = trainer.datamodule.labels  # type: ignore[attr-defined]
        if sampling.vae is not None:
            assert self.config.data.path is not None
            self._decode = decoder_of(sampling.vae, Path(self.config.data.path), device)
        self._extract = FEATURES[sampling.quality_features](sampling.inception, device)
        model = self.config.model
        blank = self._decode(torch.zeros(1, model.latent_channels, *model.latent_size, device=device))
        width = self._extract(channels_first(blank)).pool.shape[1]
        if sampling.quality_reference is not None:
            self._reference = self._configured_reference(Path(sampling.quality_reference), blank.shape[1:3])
            if len(self._reference.mean) != width:
                raise ValueError(
                    f"sampling.quality_reference={sampling.quality_reference} has features of "
                    f"{len(self._reference.mean)} numbers, and generated images of {width}"
                )

    def measure(self, model: LINA, data: StepDataModule, partition: WorkPartition) -> dict[str, float]:
        if self._reference is None:
            self._reference = self._training_images(data, partition)
        generated = self._generated(model, data, partition)
        return {METRICS[self.config.sampling.quality_features]: frechet_distance(self._reference, generated)}

    def _generated(self, model: LINA, data: StepDataModule, partition: WorkPartition) -> Gaussian:
        unguided = replace(self.config.sampling, guidance_scale=1.0, guidance_scale_start=1.0)

        def moments(indices: range) -> Moments:
            generators = [seeded(self.config.trainer.rng_version, 0, "quality", index) for index in indices]
            condition = self._condition(model, data, indices)
            return self._moments(self._decode(generate(model, unguided, condition, generators, len(indices))))

        return partition.moments(unguided.quality_images, FID_BATCH_SIZE, moments).gaussian

    def _condition(self, model: LINA, data: StepDataModule, indices: range) -> Condition:
        """The conditions of the held-out images by turns, or the classes by turns or as often as the data have them."""
        classes, device = self.config.model.num_classes, next(model.parameters()).device
        if self.config.model.text_dim is not None:
            return data.held_out_condition([index % len(data.val_set) for index in indices], device)
        if classes is None:
            return {}
        if self._weighted:
            return {"label": in_proportion(self._labels, indices, self.config.sampling.quality_images).to(device)}
        return {"label": torch.tensor([i % classes for i in indices], device=device)}

    def _training_images(self, data: StepDataModule, partition: WorkPartition) -> Gaussian:
        def moments(indices: range) -> Moments:
            return self._moments(self._decode(data.train_set[torch.tensor(indices)][0]))

        return partition.moments(min(data.images, REFERENCE_IMAGES), FID_BATCH_SIZE, moments).gaussian

    def _configured_reference(self, path: Path, size: tuple[int, ...]) -> Gaussian:
        """The moments of the configured reference; `size` is that of generated images."""
        stored = read_statistics(path)
        if stored is not None and self.config.sampling.quality_features == "inception":
            return stored.pool
        if stored is not None and not has_images(path):
            raise ValueError(
                f"{path} holds statistics of Inception's features, and quality_features=pixels needs images"
            )
        images = open_images(path)
        if images.size != size and self.config.sampling.quality_features == "pixels":
            raise ValueError(
                f"quality_features=pixels compares images of one size: sampling.quality_reference={path} has "
                f"{images.shown_size} and generated images have {size[0]} x {size[1]} pixels"
            )
        return merged(self._moments(pixels) for pixels in images.batches(READ_BATCH_SIZE)).gaussian

    def _moments(self, pixels: Pixels) -> Moments:
        return moments_of(self._extract(channels_first(pixels)).pool)
