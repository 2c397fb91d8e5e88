"""The configuration of one trial."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import asdict
from functools import cache, cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from lina_lab.config.checkpoint import CheckpointConfig
from lina_lab.config.checks import CHECKS, FROM_LIST, Checked, NonNegativeInt, OneOf, PositiveFloat, PositiveInt, Share
from lina_lab.config.datasets import DATA_SETS, having
from lina_lab.config.ema import EmaConfig, problem_of_snapshots, snapshot_steps
from lina_lab.config.extras import CALLBACKS, LOGGERS, problems_of_names
from lina_lab.config.history import added_fields, placed, recorded
from lina_lab.config.metrics import METRICS
from lina_lab.config.model import LinaConfig
from lina_lab.config.optimizers import OPTIMIZERS, OptimizerConfig
from lina_lab.config.start import StartConfig


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class DataConfig:
    """The data set, and its batches."""

    name: Annotated[str, OneOf(DATA_SETS)] = "digits"
    """Data set: `digits` is scikit-learn's, 1,797 real images of 8 x 8 pixels in 10 classes; `mnist5k` are 5,000 of
    MNIST's, 28 x 28 pixels; `emoji` are OpenMoji's color pictures in the model's latent_size, with captions, in 9
    classes; `latents` are arrays of latents in data.path; `shards` are the shards in data.path that
    `lina cache` wrote; `shapes` are captioned pictures of shapes, generated without end in the model's latent_size."""
    path: str | None = None
    """For name=latents: the folder of train_latents.npy [n, C, H, W], train_labels.npy [n], val_latents.npy and
    val_labels.npy. For name=shards: the folder of the shards."""
    flip: bool | None = None
    """For name=shards and for task=classification: mirror half of the training images; null: only shards whose images
    have classes, since a caption may say what is left and what is right."""
    shift: NonNegativeInt = 0
    """For task=classification: rows and columns by which training images move at most, in all directions; what comes
    in repeats the edge."""
    encoder: str | None = None
    """For captions: the text encoder that encodes them during training, `words` or a folder or hub name for
    transformers; null: the shards hold the encoder's hidden states."""
    long_captions: Share = 0.0
    """For captions: share of the training images that are shown with their long caption."""
    on_error: Literal["raise", "skip"] = "raise"
    """For name=shards: what happens at a damaged training image. raise: the trial ends; skip: the image is reported
    and counted, and another one takes its place."""
    max_skipped: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """For on_error=skip: largest share of the training images that may be damaged; more end the trial."""
    workers: NonNegativeInt = 0
    """Data loader processes of each rank; 0: the training process reads the images itself."""
    batch_size: PositiveInt = 128
    """Global batch size: images per optimizer step, over all ranks."""
    val_images: PositiveInt = 360
    """Images held out for validation: for name=digits and name=mnist5k stratified by class, for name=emoji also
    together with all that differ in skin tone alone, for other data sets the first ones."""
    val_batch_size: PositiveInt = 60
    """Images that share one mask ratio in the frozen validation loss."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class TrainerConfig(Checked):
    """Budget, precision, validation and the divergence rule."""

    max_images: PositiveInt = 10_000
    """Budget: images seen in training, rounded up to whole batches."""
    val_every_images: PositiveInt = 2_000
    """Images seen between two validations; there is always a validation at the end."""
    log_every_n_steps: PositiveInt = 1
    """Optimizer steps between two logged training losses."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Lightning's precision."""
    rng_version: Literal[1, 2] = 1
    """How random generators of training and of quality_images are seeded. 1: with 32 bits, as versions up to 0.2 did:
    a long training repeats masks and noise; 2: with all bits."""
    divergence_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 3.0
    """A trial may be diverging while its training loss is above this multiple of its minimum so far."""
    divergence_steps: Annotated[int, Field(gt=0, le=200, strict=True)] = 100
    """Consecutive steps above that multiple after which the trial has diverged; a loss that is not finite counts at
    once."""
    callbacks: Annotated[tuple[str, ...], FROM_LIST] = ()
    """Lightning callbacks of installed packages, by name."""
    loggers: Annotated[tuple[str, ...], FROM_LIST] = ()
    """Lightning loggers that get the metrics beside MLflow: tensorboard, wandb, or those of installed packages. They
    decide no number, and are not part of the config hash."""
    system_metrics_seconds: PositiveFloat | None = None
    """Seconds between two samples of MLflow's system metrics (processors, memory, disk and network; GPUs with package
    nvidia-ml-py), one series for each machine; null: none. They are not part of the config hash."""

    def _problems(self) -> Iterator[str]:
        yield from problems_of_names("callbacks", self.callbacks, CALLBACKS)
        yield from problems_of_names("loggers", self.loggers, LOGGERS)


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class SamplingConfig(Checked):
    """Images generated from the averaged (EMA) weights, and the metrics measured on them."""

    images_per_class: NonNegativeInt = 4
    """Images of each class, or of each of the first held-out captions, in the sample grid at the end; 0: no grid."""
    ar_steps: PositiveInt = 16
    """Autoregressive steps K; at most the number of image tokens."""
    ode_steps: PositiveInt = 25
    """Steps of the flow-matching ODE, for task=generation in each autoregressive step."""
    ode_solver: Literal["euler", "heun"] = "euler"
    """Method of these steps; heun calls the model twice in each but the last."""
    guidance_scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    """Classifier-free guidance scale at the last step."""
    guidance_scale_start: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Classifier-free guidance scale at the first step; it grows linearly to guidance_scale."""
    quality_images: NonNegativeInt = 0
    """Images generated without guidance to measure the Fréchet distance to real images, at the end and at every
    quality_every_images; 0: not measured."""
    quality_features: Literal["pixels", "inception"] = "pixels"
    """Features of the Fréchet distance: pixels (eval/fid_pixels) or Inception's (eval/fid_inception)."""
    quality_reference: str | None = None
    """Real images to compare with, or their stored statistics, as for `lina evaluate`; null: the first 10,000 training
    images, where they are latents as decoded by the autoencoder."""
    inception: str | None = None
    """For quality_features=inception: file of Inception's weights; null: torch-fidelity's in torch's download cache."""
    vae: str | None = None
    """For data.name=shards: folder or hub name of the latents' autoencoder, which decodes generated latents for the
    sample grid and for quality_images."""
    caption_images: NonNegativeInt = 0
    """For data.name=shapes: images generated for held-out captions to measure eval/captions, the share that is what the
    caption asks for (mean of six tasks), when quality_images are measured; 0: not measured."""
    quality_every_images: PositiveInt | None = None
    """Images seen between two measurements of generated images, rounded up to validations; null: at the end only."""
    metrics: Annotated[tuple[str, ...], FROM_LIST] = ()
    """Metrics of installed packages to measure when quality_images are; the built-in ones have fields of their own."""

    def _problems(self) -> Iterator[str]:
        for name in self.metrics:
            metric = METRICS.get(name)
            if metric is None:
                outside = ", ".join(METRICS.outside()) or "there are none"
                yield f"metrics: {name} is not a metric of an installed package ({outside})"
            elif metric.callback is None:
                fields = [f"sampling.{switch}" for switch in metric.switched_on]
                how = f"it is measured with {' and '.join(fields)}" if fields else "it is always measured"
                yield f"metrics: {name} is a built-in metric: {how}"
            if self.metrics.count(name) > 1:
                yield f"metrics: {list(self.metrics)} names a metric twice"


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class TrialConfig(Checked):
    """All that one trial computes with. What decides its numbers identifies it, see `config_hash`."""

    model: LinaConfig = LinaConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EmaConfig = EmaConfig()
    trainer: TrainerConfig = TrainerConfig()
    sampling: SamplingConfig = SamplingConfig()
    start: StartConfig = StartConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    seed: NonNegativeInt = 0
    """Seed of the weights, the data order, the masks and the noise."""

    def _problems(self) -> Iterator[str]:
        if (problem := self.model.kind.problem(self)) is not None:
            yield problem
        if (misfit := DATA_SETS[self.data.name].misfit(self)) is not None:
            yield misfit
        if self.model.parametrization == "mup" and not OPTIMIZERS[self.optimizer.name].adam_like:
            yield f"model.parametrization=mup needs an optimizer that steps as Adam does, not {self.optimizer.name}"
        if (sentence := problem_of_snapshots(self.ema, self.ema_snapshots)) is not None:
            yield sentence
        if (sentence := self.checkpoint.problem(self)) is not None:
            yield sentence
        yield from self._problems_of_augmentation()
        yield from self._problems_of_sampling()
        yield from self._problems_of_captions()

    def _problems_of_augmentation(self) -> Iterator[str]:
        task, data = self.model.kind, self.data
        if data.shift and not task.augments:
            yield f"data.shift={data.shift} moves images, and model.task={task.name} learns them where they are"
        if data.shift >= min(self.model.latent_size):
            yield f"data.shift={data.shift} moves images of {list(self.model.latent_size)} numbers out of sight"

    @property
    def augmentations(self) -> dict[str, Any]:
        """How the task changes training images, as options of its inputs; empty for tasks that change none."""
        if not self.model.kind.augments:
            return {}
        # Shards hold both images and their mirror images, and choose among them.
        return {"flip": bool(self.data.flip) and not DATA_SETS[self.data.name].mirrors, "shift": self.data.shift}

    def _problems_of_sampling(self) -> Iterator[str]:
        sampling = self.sampling
        if sampling.quality_images and sampling.vae is None and self.model.latent_channels not in (1, 3):
            yield (
                f"sampling.quality_images needs pixels, and model.latent_channels={self.model.latent_channels} are "
                "latents: sampling.vae names the autoencoder that decodes them"
            )
        if sampling.vae is not None and not DATA_SETS[self.data.name].cached_latents:
            yield f"sampling.vae needs {having('cached_latents')}, whose manifest says how latents were scaled"
        if sampling.quality_reference is not None and not sampling.quality_images:
            yield "sampling.quality_reference needs sampling.quality_images, which are compared with it"
        if sampling.inception is not None and sampling.quality_features != "inception":
            yield "sampling.inception needs sampling.quality_features=inception"
        if 0 < sampling.caption_images < 6:
            yield "sampling.caption_images must be at least 6, one image for each task"
        if sampling.quality_images == 1:
            yield "sampling.quality_images=1: one image has no covariance"

    def _problems_of_captions(self) -> Iterator[str]:
        texts = self.model.text_dim is not None
        if self.data.encoder is not None and not texts:
            yield f"data.encoder={self.data.encoder} is for captions: it needs model.text_dim"
        if self.data.long_captions and not texts:
            yield "data.long_captions is for captions: it needs model.text_dim"
        if self.sampling.caption_images and not (texts and DATA_SETS[self.data.name].checked_captions):
            yield f"sampling.caption_images needs {having('checked_captions')} and model.text_dim"

    @property
    def max_steps(self) -> int:
        """Optimizer steps of the whole budget."""
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
        """Lightning epochs: one for each validation; the last may be shorter."""
        return -(-self.max_steps // self.epoch_steps)

    @property
    def ema_snapshots(self) -> tuple[int, ...]:
        """Optimizer steps with a snapshot of the averages by `ema.profiles`."""
        return snapshot_steps(self.ema, batch_size=self.data.batch_size, max_steps=self.max_steps)

    def config_hash(self, places: Mapping[str, Any] | None = None) -> str:
        """First 12 hex digits of the SHA-256 of what decides the numbers, as version 0.1 recorded it.

        Args:
            places: field of `history.PLACES` -> the value to hash, where a study began with it or varies it.
        """
        key = json.dumps(places or {}, sort_keys=True)
        if key not in self._recorded:
            kind: Any = type(self)
            self._recorded[key] = recorded(placed(asdict(self), places or {}), _added(kind))
        data = {**self._recorded[key], "seed": self.seed}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]

    def with_seed(self, seed: int) -> "TrialConfig":
        """The same trial with another seed, without the work that the other fields take to hash."""
        if seed == self.seed:
            return self
        # Not `replace`, which checks all sections again: a millisecond for each cell of a large study.
        config = copy(self)
        object.__setattr__(config, "seed", _SEED.validate_python(seed))
        config.__dict__["_recorded"] = self._recorded
        return config

    @cached_property
    def _recorded(self) -> dict[str, dict[str, Any]]:
        """Places -> what is hashed with them, but for the seed; shared by trials that differ in their seed alone."""
        return {}


_SEED: TypeAdapter[int] = TypeAdapter(NonNegativeInt)


@cache
def _added(cls: Any) -> dict[str, Any]:
    return added_fields(cls)
