"""The configuration of one trial."""

import hashlib
import json
from dataclasses import asdict
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from lina_lab.config.checks import (
    CHECKS,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Share,
    contradiction,
)
from lina_lab.config.history import recorded_names
from lina_lab.config.model import LinaConfig


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class DataConfig:
    """What is learned from, and in what portions."""

    name: Literal["digits", "latents", "shards", "shapes"] = "digits"
    """Data set: `digits` is scikit-learn's, 1,797 real images of 8 x 8 pixels in 10 classes; `latents` are arrays that
    were encoded before, and `shards` are what `lina cache` makes, in data.path; `shapes` are
    captioned pictures without end, made as they are needed, of the model's latent_size."""
    path: str | None = None
    """For name=latents: a folder of train_latents.npy [n, C, H, W], train_labels.npy [n], and two such for val. For
    name=shards: the folder of the shards."""
    flip: bool | None = None
    """For name=shards: mirror half of the training images; null: those of classes, and not those with captions, which
    may say what is left and what is right."""
    encoder: str | None = None
    """For captions: what turns them into states as they come, `words` or a folder or hub name of a text encoder of
    transformers; null: the shards hold states."""
    long_captions: Share = 0.0
    """For captions: share of the training images that come with their long caption."""
    on_error: Literal["raise", "skip"] = "raise"
    """For name=shards: what a damaged training image does, `raise`: it ends the trial; `skip`: it is named and counted,
    and another one takes its place."""
    max_skipped: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """For on_error=skip: share of the training images that may be damaged; more end the trial."""
    workers: NonNegativeInt = 0
    """Processes of each rank that read training images; 0: the one that trains."""
    batch_size: PositiveInt = 128
    """Images an optimizer step, over all ranks."""
    val_images: PositiveInt = 360
    """Images held out for validation; of name=digits drawn evenly from the classes, of others the first ones."""
    val_batch_size: PositiveInt = 60
    """Images that share one mask ratio in the frozen validation loss."""


Decay = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class OptimizerConfig:
    """AdamW with a linear warm-up, then a constant rate (`lina.md` section 3)."""

    lr: PositiveFloat = 8e-4
    """Learning rate after the warm-up."""
    warmup_images: NonNegativeInt = 0
    """Images seen until the rate is full."""
    betas: Annotated[tuple[Decay, Decay], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)] = (
        0.9,
        0.95,
    )
    """Decay of the two moments."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.02
    """Weight decay; norms have none."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class EmaConfig:
    """Exponential moving average of the weights."""

    decay: Decay = 0.99
    """Share of the average that an update keeps."""
    every_n_steps: PositiveInt = 100
    """Optimizer steps between two updates."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class TrainerConfig:
    """How long, how precise, how often looked at."""

    max_images: PositiveInt = 10_000
    """Budget: images seen in training, rounded up to whole batches."""
    val_every_images: PositiveInt = 2_000
    """Images seen between two validations; there is always one at the end."""
    log_every_n_steps: PositiveInt = 1
    """Optimizer steps between two logged training losses."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Lightning's precision."""
    divergence_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 3.0
    """A training loss above this multiple of its minimum so far is on its way out."""
    divergence_steps: Annotated[int, Field(gt=0, le=200, strict=True)] = 100
    """Steps in a row above it after which the trial has diverged; at once where the loss is not finite."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class SamplingConfig:
    """The pictures made from the averaged weights when training ends (`lina.md` section 4)."""

    images_per_class: NonNegativeInt = 4
    """Pictures of each class, or of each of the first held-out captions, in the grid; 0: none."""
    ar_steps: PositiveInt = 16
    """Autoregressive steps K; at most one a token."""
    ode_steps: PositiveInt = 25
    """Euler steps of the flow's ODE for each of them."""
    guidance_scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    """Guidance at the last step."""
    guidance_scale_start: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Guidance at the first step."""
    quality_images: NonNegativeInt = 0
    """Images generated without guidance, whose features' Fréchet distance to those of real images is measured; 0: none.
    At the end, and where quality_every_images says so."""
    quality_features: Literal["pixels", "inception"] = "pixels"
    """What images are compared by: `eval/fid_pixels`, or by Inception's features `eval/fid_inception`."""
    quality_reference: str | None = None
    """Real images, or their stored statistics, as `lina evaluate` takes them; null: the first 10,000 training
    images, of latents as the autoencoder gives them back."""
    inception: str | None = None
    """For quality_features=inception: file of the weights; null: torch-fidelity's in torch's cache of downloads."""
    vae: str | None = None
    """For data.name=shards: folder or hub name of the autoencoder of the latents, which makes generated latents pixels:
    in the grid, and for quality_images."""
    caption_images: NonNegativeInt = 0
    """For data.name=shapes: images generated for held-out captions, which are looked at for what the caption asks:
    `eval/captions` is the share that has it, the mean of six kinds; 0: none. When: as quality_images."""
    quality_every_images: PositiveInt | None = None
    """Images seen between two looks at the quality, rounded up to validations; null: at the end alone."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class TrialConfig:
    """All that decides what one trial computes, and nothing else: its hash is the trial's identity."""

    model: LinaConfig = LinaConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EmaConfig = EmaConfig()
    trainer: TrainerConfig = TrainerConfig()
    sampling: SamplingConfig = SamplingConfig()
    seed: NonNegativeInt = 0
    """Seed of the weights, the data order, the masks and the noise."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.sampling.ar_steps > self.model.num_tokens:
            raise contradiction(
                f"sampling.ar_steps={self.sampling.ar_steps} is more than an image's {self.model.num_tokens} tokens"
            )
        if self.sampling.quality_images and self.sampling.vae is None and self.model.latent_channels not in (1, 3):
            raise contradiction(
                f"sampling.quality_images compares pixels, and model.latent_channels={self.model.latent_channels} are "
                "none: sampling.vae says how latents become pixels"
            )
        if self.sampling.vae is not None and self.data.name != "shards":
            raise contradiction("sampling.vae is for data.name=shards, whose manifest says how latents were scaled")
        if self.sampling.quality_reference is not None and not self.sampling.quality_images:
            raise contradiction("sampling.quality_reference needs sampling.quality_images, which are compared with it")
        if self.sampling.inception is not None and self.sampling.quality_features != "inception":
            raise contradiction("sampling.inception needs sampling.quality_features=inception")
        if 0 < self.sampling.caption_images < 6:
            raise contradiction("sampling.caption_images must be 6 at least: there are six kinds of captions")
        if self.sampling.quality_images == 1:
            raise contradiction("sampling.quality_images=1: one image has no covariance")
        if (self.data.path is None) != (self.data.name in ("digits", "shapes")):
            raise contradiction("data.path is for data.name=latents and data.name=shards, which need it")
        self._check_digits()
        self._check_text()
        return self

    def _check_digits(self) -> None:
        if self.data.name != "digits":
            return
        if (self.model.latent_channels, self.model.latent_size) != (1, (8, 8)):
            raise contradiction("data.name=digits needs model.latent_channels=1 and model.latent_size=[8,8]")
        if not 10 <= self.data.val_images <= 1787:
            raise contradiction("data.name=digits needs data.val_images between 10 and 1787 of its 1,797 images")
        if self.model.num_classes not in (10, None):
            raise contradiction("data.name=digits needs model.num_classes=10, or null for an unconditional model")

    def _check_text(self) -> None:
        name, texts = self.data.name, self.model.text_dim is not None
        if name == "shapes" and (self.model.latent_channels != 3 or len(set(self.model.latent_size)) != 1):
            raise contradiction("data.name=shapes needs model.latent_channels=3 and a square model.latent_size")
        if name == "shapes" and self.model.num_classes is not None:
            raise contradiction("data.name=shapes has captions and no classes: it needs model.num_classes=null")
        if texts and name not in ("shapes", "shards"):
            raise contradiction(f"data.name={name} has no captions: model.text_dim must be null")
        if texts and name == "shapes" and self.data.encoder is None:
            raise contradiction("data.name=shapes needs data.encoder for its captions, such as words")
        if self.data.encoder is not None and not texts:
            raise contradiction(f"data.encoder={self.data.encoder} is for captions: it needs model.text_dim")
        if self.data.long_captions and not texts:
            raise contradiction("data.long_captions is for captions: it needs model.text_dim")
        if self.sampling.caption_images and not (texts and name == "shapes"):
            raise contradiction("sampling.caption_images needs data.name=shapes and model.text_dim")

    @property
    def max_steps(self) -> int:
        """Optimizer steps that the budget comes to."""
        return -(-self.trainer.max_images // self.data.batch_size)

    @property
    def images_seen(self) -> int:
        """Images seen in training: the budget, rounded up to whole batches."""
        return self.max_steps * self.data.batch_size

    @property
    def epoch_steps(self) -> int:
        """Optimizer steps between two validations."""
        return -(-self.trainer.val_every_images // self.data.batch_size)

    @property
    def epochs(self) -> int:
        """Stretches between validations; the last may be shorter."""
        return -(-self.max_steps // self.epoch_steps)

    def config_hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the configuration."""
        return hashlib.sha256(json.dumps(recorded_names(asdict(self)), sort_keys=True).encode()).hexdigest()[:12]
