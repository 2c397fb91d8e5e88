"""FID during training: the Fréchet distance between features of generated and of real images."""

from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from lina_lab.config import TrialConfig
from lina_lab.data.modules.base import StepDataModule
from lina_lab.data.pixels import Pixels, channels_first, to_pixels
from lina_lab.evaluation.decoding import decoder_of
from lina_lab.evaluation.features import FEATURES, Extractor
from lina_lab.evaluation.images import has_images, read_images, read_statistics
from lina_lab.evaluation.moments import Gaussian, Moments, frechet_distance, merged, moments_of
from lina_lab.evaluation.sampling import Condition, SampleRecipe, condition_of, generate_latents
from lina_lab.model import LINA
from lina_lab.records.runstore import EVALUATION
from lina_lab.training.callbacks.ema import ExponentialAverage
from lina_lab.training.callbacks.evaluation import Evaluation
from lina_lab.training.work_partition import WorkPartition

METRICS = {"pixels": f"{EVALUATION}fid_pixels", "inception": f"{EVALUATION}fid_inception"}
"""The metric of each `sampling.quality_features`."""
FID_BATCH_SIZE = 250
"""Images generated together."""
REFERENCE_IMAGES = 10_000
"""Training images that stand for the data where no reference is configured, the first ones."""


class FIDCallback(Evaluation):
    """Generates images without guidance, of the same classes, orders and noise for every trial, and measures FID.

    Ranks share the work, unless the weights are sharded. Autoencoder, network and reference are loaded before training
    begins, so that what is wrong with them costs no training.

    Args:
        config: the trial.
        average: see `Evaluation`.
    """

    @property
    def state_key(self) -> str:
        """Its name in checkpoints, since version 0.1."""
        return "Quality"

    def __init__(self, config: TrialConfig, average: ExponentialAverage) -> None:
        super().__init__(config, average)
        self._decode: Callable[[Tensor], Pixels] = to_pixels
        self._extract: Extractor
        self._reference: Gaussian | None = None
        self._width = 0
        """Numbers of an image's features."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        sampling, device = self.config.sampling, pl_module.device
        if sampling.vae is not None:
            assert self.config.data.path is not None
            self._decode = decoder_of(sampling.vae, Path(self.config.data.path), device)
        self._extract = FEATURES[sampling.quality_features](sampling.inception, device)
        model = self.config.model
        blank = self._decode(torch.zeros(1, model.latent_channels, *model.latent_size, device=device))
        self._width = self._extract(channels_first(blank)).pool.shape[1]
        if sampling.quality_reference is not None:
            self._reference = self._configured_reference(Path(sampling.quality_reference))
            if len(self._reference.mean) != self._width:
                raise ValueError(
                    f"sampling.quality_reference={sampling.quality_reference} has features of "
                    f"{len(self._reference.mean)} numbers, and generated images of {self._width}"
                )

    def measure(self, model: LINA, data: StepDataModule, partition: WorkPartition) -> dict[str, float]:
        if self._reference is None:
            self._reference = self._training_images(data, partition)
        generated = self._generated(model, data, partition)
        return {METRICS[self.config.sampling.quality_features]: frechet_distance(self._reference, generated)}

    def _generated(self, model: LINA, data: StepDataModule, partition: WorkPartition) -> Gaussian:
        sampling = self.config.sampling
        recipe = SampleRecipe(
            images=sampling.quality_images,
            classes=tuple(range(self.config.model.num_classes or 0)),
            ar_steps=sampling.ar_steps,
            ode_steps=sampling.ode_steps,
            guidance_scale=1.0,
            guidance_scale_start=1.0,
            seed=0,
            batch_size=FID_BATCH_SIZE,
            weights="ema",
            weights_sha256="",
            decoder=sampling.vae or "pixels",
        )

        def moments(indices: range) -> Moments:
            condition = self._condition(model, data, recipe, indices)
            return self._moments(self._decode(generate_latents(model, recipe, indices, condition, "quality")))

        return partition.moments(recipe.images, FID_BATCH_SIZE, moments, self._width).gaussian

    def _condition(self, model: LINA, data: StepDataModule, recipe: SampleRecipe, indices: range) -> Condition:
        """The classes by turns, or the conditions of the held-out images by turns."""
        device = next(model.parameters()).device
        if self.config.model.text_dim is None:
            return condition_of(recipe, indices, device)
        return data.held_out_condition([index % len(data.val_set) for index in indices], device)

    def _training_images(self, data: StepDataModule, partition: WorkPartition) -> Gaussian:
        def moments(indices: range) -> Moments:
            return self._moments(self._decode(data.train_set[torch.tensor(indices)][0]))

        return partition.moments(min(data.images, REFERENCE_IMAGES), FID_BATCH_SIZE, moments, self._width).gaussian

    def _configured_reference(self, path: Path) -> Gaussian:
        stored = read_statistics(path)
        if stored is not None and self.config.sampling.quality_features == "inception":
            return stored.pool
        if stored is not None and not has_images(path):
            raise ValueError(
                f"{path} holds statistics of Inception's features, and quality_features=pixels needs images"
            )
        return merged(self._moments(pixels) for pixels in read_images(path)).gaussian

    def _moments(self, pixels: Pixels) -> Moments:
        return moments_of(self._extract(channels_first(pixels)).pool)
