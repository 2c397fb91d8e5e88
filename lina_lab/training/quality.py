"""How good the images of a model in training are: the Fréchet distance of their pixels to the training images."""

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from lina_lab.config import TrialConfig
from lina_lab.data.steps import StepDataModule
from lina_lab.evaluation.features import FEATURES, Rows
from lina_lab.evaluation.moments import Gaussian, frechet_distance, merged, moments_of
from lina_lab.evaluation.sampling import Pixels, Recipe, draw, to_pixels
from lina_lab.model import LINA
from lina_lab.runstore import EVALUATION
from lina_lab.training.callbacks import ExponentialAverage
from lina_lab.training.module import LinaModule

METRIC = f"{EVALUATION}fid_pixels"
PORTION = 250
REFERENCE_IMAGES = 10_000
"""Training images that are compared with, the first ones."""


class Quality(Callback):
    """Generates images from the averaged weights, without guidance, at the end and where the configuration says so.

    Every trial draws the same classes, orders and noise, whatever its variant, size and seed. What it takes counts as
    validation, not as training. Every rank draws all images: sharded weights need all ranks.

    Args:
        config: the trial.
        average: holds the averaged weights; it stands before this callback, so that they are its own again.
    """

    def __init__(self, config: TrialConfig, average: ExponentialAverage) -> None:
        self.config, self.average = config, average
        self.seen = 0
        """Images seen when it was last measured."""

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, LinaModule)
        seen, every = pl_module.images_seen, self.config.sampling.quality_every_images
        last = trainer.global_step >= self.config.max_steps
        if not last and (every is None or seen // every == self.seen // every):
            return
        self.seen = seen
        module = self.average.averaged()
        module.eval()
        assert isinstance(trainer.datamodule, StepDataModule)  # type: ignore[attr-defined]
        found = frechet_distance(_reference(trainer.datamodule), self._generated(module.model))  # type: ignore[attr-defined, arg-type]
        pl_module.log_over_images({METRIC: found}, seen)

    def _generated(self, model: LINA) -> Gaussian:
        sampling, tokens = self.config.sampling, self.config.model.num_tokens
        recipe = Recipe(
            images=sampling.quality_images,
            classes=tuple(range(self.config.model.num_classes or 0)),
            steps=min(sampling.steps, tokens),
            flow_steps=sampling.flow_steps,
            guidance=1.0,
            min_guidance=1.0,
            seed=0,
            portion=PORTION,
            weights="ema",
            weights_sha256="",
            decoder="pixels",
        )
        portions = (range(i, min(i + PORTION, recipe.images)) for i in range(0, recipe.images, PORTION))
        return merged(moments_of(_rows(to_pixels(draw(model, recipe, part, "quality")))) for part in portions).gaussian

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.seen = state_dict["seen"]


def _reference(data: StepDataModule) -> Gaussian:
    images, *_ = data.train_set[torch.arange(min(data.images, REFERENCE_IMAGES))]
    return moments_of(_rows(to_pixels(images))).gaussian


def _rows(pixels: Pixels) -> Rows:
    return FEATURES["pixels"](None, "cpu")(torch.from_numpy(pixels).permute(0, 3, 1, 2)).pool
