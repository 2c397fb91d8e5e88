"""How good the images of a model in training are: the Fréchet distance of their features to those of real images."""

from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from lina_lab.config import TrialConfig
from lina_lab.data.modules.base import StepDataModule
from lina_lab.evaluation.decoding import decoder_of
from lina_lab.evaluation.features import FEATURES, Extractor
from lina_lab.evaluation.images import has_images, read_images, read_statistics
from lina_lab.evaluation.moments import Gaussian, Moments, frechet_distance, merged, moments_of
from lina_lab.evaluation.sampling import Condition, Pixels, Recipe, condition_of, draw, to_pixels
from lina_lab.model import LINA
from lina_lab.records.runstore import EVALUATION
from lina_lab.training.callbacks.ema import ExponentialAverage
from lina_lab.training.callbacks.evaluation import Evaluation, WorkPartition

METRICS = {"pixels": f"{EVALUATION}fid_pixels", "inception": f"{EVALUATION}fid_inception"}
"""By `sampling.quality_features`."""
PORTION = 250
REFERENCE_IMAGES = 10_000
"""Training images that are compared with, the first ones, where no reference is given."""


class FIDCallback(Evaluation):
    """Generates images without guidance, of the same classes, orders and noise for every trial.

    Ranks share the work, unless the weights are sharded. Autoencoder, network and reference are looked at before
    training begins.

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
        self._width = self._extract(torch.from_numpy(blank).permute(0, 3, 1, 2)).pool.shape[1]
        if sampling.quality_reference is not None:
            self._reference = self._given_reference(Path(sampling.quality_reference))
            if len(self._reference.mean) != self._width:
                raise ValueError(
                    f"sampling.quality_reference={sampling.quality_reference} has features of "
                    f"{len(self._reference.mean)} numbers, and generated images of {self._width}"
                )

    def measure(self, model: LINA, data: StepDataModule, crew: WorkPartition) -> dict[str, float]:
        if self._reference is None:
            self._reference = self._training_images(data, crew)
        generated = self._generated(model, data, crew)
        return {METRICS[self.config.sampling.quality_features]: frechet_distance(self._reference, generated)}

    def _generated(self, model: LINA, data: StepDataModule, crew: WorkPartition) -> Gaussian:
        sampling = self.config.sampling
        recipe = Recipe(
            images=sampling.quality_images,
            classes=tuple(range(self.config.model.num_classes or 0)),
            ar_steps=sampling.ar_steps,
            ode_steps=sampling.ode_steps,
            guidance_scale=1.0,
            guidance_scale_start=1.0,
            seed=0,
            batch_size=PORTION,
            weights="ema",
            weights_sha256="",
            decoder=sampling.vae or "pixels",
        )

        def moments(places: range) -> Moments:
            condition = self._condition(model, data, recipe, places)
            return self._moments(self._decode(draw(model, recipe, places, condition, "quality")))

        return crew.moments(recipe.images, PORTION, moments, self._width).gaussian

    def _condition(self, model: LINA, data: StepDataModule, recipe: Recipe, places: range) -> Condition:
        """Classes in turn, or what is said of the held-out images in turn."""
        device = next(model.parameters()).device
        if self.config.model.text_dim is None:
            return condition_of(recipe, places, device)
        return data.examples([place % len(data.val_set) for place in places], device)

    def _training_images(self, data: StepDataModule, crew: WorkPartition) -> Gaussian:
        def moments(places: range) -> Moments:
            return self._moments(self._decode(data.train_set[torch.tensor(places)][0]))

        return crew.moments(min(data.images, REFERENCE_IMAGES), PORTION, moments, self._width).gaussian

    def _given_reference(self, path: Path) -> Gaussian:
        stored = read_statistics(path)
        if stored is not None and self.config.sampling.quality_features == "inception":
            return stored.pool
        if stored is not None and not has_images(path):
            raise ValueError(
                f"{path} holds statistics of Inception's features, and quality_features=pixels needs images"
            )
        return merged(self._moments(pixels) for pixels in read_images(path)).gaussian

    def _moments(self, pixels: Pixels) -> Moments:
        return moments_of(self._extract(torch.from_numpy(pixels).permute(0, 3, 1, 2)).pool)
