"""The whole configuration: frozen, keyword-only dataclasses that are checked when they are made.

Imports no torch, so that a study can be planned and read without it. pydantic does the checking: a wrong type, an
unknown field or a value outside the allowed ones raises `pydantic.ValidationError` (a `ValueError`) that names them.
The string under a field is its documentation: `python -m lina_lab.run --help` prints it.
"""

import hashlib
import json
from dataclasses import asdict
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

T = TypeVar("T")

CHECKS = ConfigDict(extra="forbid", use_attribute_docstrings=True)

# `strict`: True is not a 1 and 3.0 is not a 3.
PositiveInt = Annotated[int, Field(gt=0, strict=True)]
NonNegativeInt = Annotated[int, Field(ge=0, strict=True)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
# YAML has no tuples.
Pair = Annotated[tuple[PositiveInt, PositiveInt], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)]


def contradiction(sentence: str) -> PydanticCustomError:
    """An error for fields that are fine alone and not together; pydantic adds where they stand."""
    return PydanticCustomError("contradiction", sentence)


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class AttentionConfig:
    """One attention: its core, and what is added to it (`lina.md` section 2)."""

    kind: Literal["linear", "softmax"] = "linear"
    """Core of the attention: kernel-based linear attention, or softmax attention."""
    normalization: Literal["division", "subtraction"] = "division"
    """How linear attention makes each row of weights sum to one; softmax does so by itself."""
    feature_map: Literal["relu"] = "relu"
    """Function on queries and keys of linear attention."""
    conv: Literal["none", "depthwise"] = "depthwise"
    """Convolution over the image tokens of the attention's input, added to its output."""
    conv_kernel: PositiveInt = 5
    """Side of the convolution's kernel in tokens; odd."""
    gate: Literal["none", "kv"] = "kv"
    """Learned weights that do not depend on the data: `kv` gives each key and value, per head and position, one."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.conv_kernel % 2 == 0:
            raise contradiction(f"conv_kernel={self.conv_kernel} must be odd, so that the kernel has a centre")
        if self.kind == "softmax" and self.normalization != "division":
            raise contradiction("normalization=subtraction needs kind=linear: softmax has its own normalisation")
        if self.kind == "softmax" and self.gate != "none":
            raise contradiction(f"gate={self.gate} needs kind=linear: it acts behind the feature map")
        return self

    def plain(self) -> "AttentionConfig":
        """The same core without convolution and gate, as the two encoders have it."""
        return AttentionConfig(
            kind=self.kind,
            normalization=self.normalization,
            feature_map=self.feature_map,
            conv="none",
            conv_kernel=self.conv_kernel,
            gate="none",
        )


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class LinaConfig:
    """One LINA. The defaults are the published class-conditional model of width 768 (`lina.md` section 1)."""

    latent_channels: PositiveInt = 16
    """Channels C of a latent image."""
    latent_size: Pair = (16, 16)
    """Height and width of a latent image."""
    patch_size: PositiveInt = 1
    """Side p of the square patch that makes one token of p*p*C numbers."""
    dim: PositiveInt = 768
    """Width D of every transformer block."""
    num_heads: PositiveInt = 12
    """Attention heads."""
    condition_depth: PositiveInt = 16
    """Blocks of the condition encoder."""
    depth: PositiveInt = 32
    """Blocks of the masked encoder and the masked decoder together, half each; even."""
    flow_depth: PositiveInt = 6
    """Blocks of the flow head."""
    flow_dim: PositiveInt | None = None
    """Width of the flow head; null: as dim."""
    num_classes: PositiveInt | None = 1000
    """Classes to condition on; null: unconditional."""
    position: Literal["sincos"] = "sincos"
    """Position code of the tokens."""
    class_drop: Share = 0.1
    """Share of the training samples whose class is hidden, for guidance."""
    noise_draws: PositiveInt = 4
    """Noise levels and noises drawn for each masked token in the loss."""
    attention: AttentionConfig = AttentionConfig()
    """Attention of the masked decoder."""
    encoder_attention: AttentionConfig | None = None
    """Attention of the masked encoder; null: the decoder's core without convolution and gate."""
    condition_attention: AttentionConfig | None = None
    """Attention of the condition encoder; null: the decoder's core without convolution and gate."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.dim % self.num_heads:
            raise contradiction(f"dim={self.dim} is not a multiple of num_heads={self.num_heads}")
        if self.dim % 4:
            raise contradiction(f"dim={self.dim} is not a multiple of 4, as position=sincos needs")
        if self.depth % 2:
            raise contradiction(f"depth={self.depth} must be even: half is the encoder, half the decoder")
        if any(side % self.patch_size for side in self.latent_size):
            raise contradiction(f"patch_size={self.patch_size} does not divide latent_size={list(self.latent_size)}")
        for name in ("encoder_attention", "condition_attention"):
            placed = getattr(self, name)
            if placed is not None and (placed.conv != "none" or placed.gate != "none"):
                raise contradiction(f"{name} needs conv=none and gate=none: it does not see the whole grid")
        return self

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of image tokens."""
        return self.latent_size[0] // self.patch_size, self.latent_size[1] // self.patch_size

    @property
    def condition_grid(self) -> tuple[int, int]:
        """Rows and columns of condition tokens: half the image's, rounded up."""
        return (self.grid[0] + 1) // 2, (self.grid[1] + 1) // 2

    @property
    def num_tokens(self) -> int:
        """Image tokens N."""
        return self.grid[0] * self.grid[1]

    @property
    def condition_tokens(self) -> int:
        """Condition tokens M."""
        return self.condition_grid[0] * self.condition_grid[1]

    @property
    def token_dim(self) -> int:
        """Numbers in one token, p*p*C."""
        return self.patch_size**2 * self.latent_channels


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class DataConfig:
    """What is learned from, and in what portions."""

    name: Literal["digits"] = "digits"
    """Data set: `digits` is scikit-learn's, 1,797 real images of 8 x 8 pixels in 10 classes."""
    batch_size: PositiveInt = 128
    """Images an optimizer step, over all ranks."""
    val_images: PositiveInt = 360
    """Images held out for validation, drawn evenly from the classes."""
    val_batch_size: PositiveInt = 60
    """Images that share one mask ratio in the frozen validation loss."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class OptimizerConfig:
    """AdamW with a linear warm-up, then a constant rate (`lina.md` section 3)."""

    lr: PositiveFloat = 8e-4
    """Learning rate after the warm-up."""
    warmup_images: NonNegativeInt = 0
    """Images seen until the rate is full."""
    betas: Annotated[tuple[Share, Share], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)] = (
        0.9,
        0.95,
    )
    """Decay of the two moments."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.02
    """Weight decay; norms have none."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class EmaConfig:
    """Exponential moving average of the weights."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
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


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class SamplingConfig:
    """The pictures made from the averaged weights when training ends (`lina.md` section 4)."""

    images_per_class: NonNegativeInt = 4
    """Pictures of each class in the grid; 0: none."""
    steps: PositiveInt = 16
    """Autoregressive steps K; at most one a token."""
    flow_steps: PositiveInt = 25
    """Euler steps of the flow's ODE for each of them."""
    guidance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    """Guidance at the last step."""
    min_guidance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Guidance at the first step."""


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
        if self.sampling.steps > self.model.num_tokens:
            raise contradiction(
                f"sampling.steps={self.sampling.steps} is more than the {self.model.num_tokens} tokens of an image"
            )
        if self.data.name == "digits" and (self.model.latent_channels, self.model.latent_size) != (1, (8, 8)):
            raise contradiction("data.name=digits needs model.latent_channels=1 and model.latent_size=[8,8]")
        if self.data.name == "digits" and not 10 <= self.data.val_images <= 1787:
            raise contradiction("data.name=digits needs data.val_images between 10 and 1787 of its 1,797 images")
        if self.data.name == "digits" and self.model.num_classes not in (10, None):
            raise contradiction("data.name=digits needs model.num_classes=10, or null for an unconditional model")
        return self

    @property
    def max_steps(self) -> int:
        """Optimizer steps that the budget comes to."""
        return -(-self.trainer.max_images // self.data.batch_size)

    @property
    def epoch_steps(self) -> int:
        """Optimizer steps between two validations."""
        return -(-self.trainer.val_every_images // self.data.batch_size)

    @property
    def epochs(self) -> int:
        """Stretches between validations; the last may be shorter."""
        return -(-self.max_steps // self.epoch_steps)

    def identity(self) -> str:
        """First 12 hex digits of the SHA-256 of the configuration."""
        return hashlib.sha256(json.dumps(to_dict(self), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class StudyConfig:
    """One question: what is varied, how often, and what is held equal."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Name of the study in every store and of its folder; another name makes a study of its own."""
    question: str
    """What the study is to find out."""
    axes: dict[str, dict[str, list[Any]]]
    """Axis name -> field -> its values; the fields of one axis move together, the axes are crossed."""
    size_axis: str
    """The axis along which models grow; the others make the variants that are compared."""
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)]
    """Seeds of each cell; two variants with one seed see the same data, masks and noise."""
    held_equal: list[str]
    """What is the same for all cells, as a reviewer would want to read it."""
    objective: str = "val/loss_ema"
    """Metric that the cells are compared by; smaller is better."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.axes:
            raise contradiction("axes is empty: a study varies something")
        if self.size_axis not in self.axes:
            raise contradiction(f"size_axis={self.size_axis} is not one of the axes {sorted(self.axes)}")
        fields = [field for axis in self.axes.values() for field in axis]
        for field in fields:
            if fields.count(field) > 1:
                raise contradiction(f"axes: {field} stands in more than one axis")
        for name, axis in self.axes.items():
            lengths = {len(values) for values in axis.values()}
            if lengths in (set(), {0}) or len(lengths) > 1:
                raise contradiction(f"axes.{name}: its fields need lists of one length, of at least one value")
        if len(set(self.seeds)) < len(self.seeds):
            raise contradiction(f"seeds={self.seeds} names a seed twice")
        return self


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class PathsConfig:
    """Where results go. No part of any trial's identity."""

    runs: Annotated[str, Field(min_length=1)] = "runs"
    """Folder of all results: cells, Optuna's and MLflow's stores."""
    tracking_uri: str | None = None
    """MLflow's store; null: `mlflow.db` in the folder of runs."""


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass as plain YAML- and JSON-ready data: tuples become lists."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain


def from_dict(cls: type[T], data: Any, *, within: str = "") -> T:
    """Make the dataclass `cls` from plain data; `within` names where the data stands, for the errors.

    Raises:
        ValueError: one sentence that names each wrong field, what it held and what is allowed.
    """
    try:
        return TypeAdapter(cls).validate_python(data)
    except ValidationError as error:
        raise ValueError("; ".join(_sentence(e, within) for e in error.errors())) from None


def _sentence(error: Any, within: str) -> str:
    where = ".".join(str(part) for part in (within, *error["loc"]) if part != "")
    if error["type"] == "contradiction":
        return f"{where}: {error['msg']}" if where else str(error["msg"])
    if error["type"] == "unexpected_keyword_argument":
        return f"{where} is not a field"
    return f"{where}={error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"
