"""The model's configuration."""

from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic.dataclasses import dataclass

from lina_lab.config.checks import CHECKS, ONE, SEVERAL, Pair, PositiveInt, Share, contradiction


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class AttentionConfig:
    """One attention: its core, and what is added to it (`lina.md` section 2)."""

    kind: Literal["linear", "softmax", "mediator"] = "linear"
    """Core: kernel-based linear attention, softmax attention, or softmax through a few mediators."""
    normalization: Literal["division", "subtraction"] = "division"
    """How linear attention makes each row of weights sum to one; the other kinds do so by themselves."""
    feature_map: Literal["relu", "elu", "identity", "exp", "leaky_relu", "softplus", "squared_relu"] = "relu"
    """Function on queries and keys of linear attention. identity under division is known to diverge."""
    conv: Literal["none", "depthwise", "dynamic"] = "depthwise"
    """Convolution added to the output: of the input on its grid, or of the values with kernels made from the input."""
    conv_kernel: PositiveInt = 5
    """Side of the convolution's kernel in tokens; odd."""
    gate: Literal["none", "kv", "kv_shared", "key", "value", "kv_decoupled", "kv_data", "memory", "output"] = "kv"
    """Learned weights: on keys and values by position (kv, kv_shared, key, value, kv_decoupled) or by data (kv_data),
    on four stretches of the sequence (memory), or on the output."""
    mediators: PositiveInt = 64
    """Mediators of kind=mediator."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.conv_kernel % 2 == 0:
            raise contradiction(f"conv_kernel={self.conv_kernel} must be odd, so that the kernel has a centre")
        if self.kind != "linear" and self.normalization != "division":
            raise contradiction(f"normalization=subtraction needs kind=linear: {self.kind} has its own normalisation")
        if self.kind != "linear" and self.feature_map != "relu":
            raise contradiction(f"feature_map={self.feature_map} needs kind=linear: {self.kind} has none")
        if self.kind != "linear" and self.gate not in ("none", "output"):
            raise contradiction(f"gate={self.gate} needs kind=linear: it acts behind the feature map")
        return self

    def plain(self) -> "AttentionConfig":
        """The same core without convolution and gate, as the two encoders have it."""
        return replace(self, conv="none", gate="none")

    @property
    def tied_to_grid(self) -> bool:
        """Whether it takes only sequences of all condition and image tokens, in their order."""
        return self.conv == "depthwise" or self.gate not in ("none", "kv_data", "output")


# The tags tell pydantic which of the two is meant, and are kept out of its errors (see `checks.TAGS`).
Placement = Annotated[
    Annotated[AttentionConfig, Tag(ONE)] | Annotated[tuple[AttentionConfig, ...], BeforeValidator(tuple), Tag(SEVERAL)],
    Discriminator(lambda v: SEVERAL if isinstance(v, list | tuple) else ONE),
]
"""One attention for all blocks of a stack, or a pattern of several that its blocks repeat."""


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
    """Classes to condition on; null: none."""
    text_dim: PositiveInt | None = None
    """Channels of the text encoder's states to condition on; null: no text."""
    text_length: Annotated[int, Field(gt=0, le=512, strict=True)] = 256
    """Text tokens L in front of the condition tokens."""
    position: Literal["sincos", "rotary"] = "sincos"
    """Position code of the tokens: added to them, or a rotation of queries and keys."""
    condition_dropout: Share = 0.1
    """Share of the training samples whose class or text is hidden, for guidance."""
    noise_samples_per_token: PositiveInt = 4
    """Noise levels and noises drawn for each masked token in the loss."""
    attention: Placement = AttentionConfig()
    """Attention of the masked decoder; a list is a pattern that its blocks repeat."""
    encoder_attention: Placement | None = None
    """Attention of the masked encoder; null: the decoder's core without convolution and gate."""
    condition_attention: Placement | None = None
    """Attention of the condition encoder; null: the decoder's core without convolution and gate."""
    compile: bool = False
    """Compile each block with torch.compile: blocks that are alike are compiled once, so that depth costs no time."""
    gradient_checkpointing: bool = False
    """Keep no activations inside blocks, and compute them again in the backward pass."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.dim % self.num_heads:
            raise contradiction(f"dim={self.dim} is not a multiple of num_heads={self.num_heads}")
        if self.position == "sincos" and self.dim % 4:
            raise contradiction(f"dim={self.dim} is not a multiple of 4, as position=sincos needs")
        if self.position == "rotary" and self.dim // self.num_heads % 32:
            raise contradiction(
                f"position=rotary needs heads of a multiple of 32 channels: dim={self.dim}, num_heads={self.num_heads}"
            )
        if self.depth % 2:
            raise contradiction(f"depth={self.depth} must be even: half is the encoder, half the decoder")
        if any(side % self.patch_size for side in self.latent_size):
            raise contradiction(f"patch_size={self.patch_size} does not divide latent_size={list(self.latent_size)}")
        if self.num_classes is not None and self.text_dim is not None:
            raise contradiction("num_classes and text_dim are both given: a model is conditioned on one of them")
        for name in ("encoder_attention", "condition_attention"):
            if any(attention.tied_to_grid for attention in self._pattern(name)):
                raise contradiction(
                    f"{name} needs a conv and a gate that do not need the whole grid: it does not see it"
                )
        for name, depth in (
            ("attention", self.depth // 2),
            ("encoder_attention", self.depth // 2),
            ("condition_attention", self.condition_depth),
        ):
            pattern = self._pattern(name)
            if getattr(self, name) is not None and (not pattern or depth % len(pattern)):
                raise contradiction(f"{name} is a pattern of {len(pattern)}, which does not fill its {depth} blocks")
        if any(a.gate == "memory" for a in self.decoder_blocks) and (self.num_tokens + self.condition_tokens) % 4:
            raise contradiction(
                f"gate=memory needs a multiple of 4 tokens, not {self.num_tokens + self.condition_tokens}"
            )
        return self

    def _pattern(self, name: str) -> tuple[AttentionConfig, ...]:
        placed: AttentionConfig | tuple[AttentionConfig, ...] | None = getattr(self, name)
        if placed is None:
            return tuple(attention.plain() for attention in self._pattern("attention"))
        return (placed,) if isinstance(placed, AttentionConfig) else placed

    @property
    def decoder_blocks(self) -> tuple[AttentionConfig, ...]:
        """The attention of each block of the masked decoder."""
        return _fill(self._pattern("attention"), self.depth // 2)

    @property
    def encoder_blocks(self) -> tuple[AttentionConfig, ...]:
        """The attention of each block of the masked encoder."""
        return _fill(self._pattern("encoder_attention"), self.depth // 2)

    @property
    def condition_blocks(self) -> tuple[AttentionConfig, ...]:
        """The attention of each block of the condition encoder."""
        return _fill(self._pattern("condition_attention"), self.condition_depth)

    @property
    def conditional(self) -> bool:
        """Whether there is a class or a text to hide."""
        return self.num_classes is not None or self.text_dim is not None

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


def _fill(pattern: tuple[AttentionConfig, ...], blocks: int) -> tuple[AttentionConfig, ...]:
    return tuple(pattern[i % len(pattern)] for i in range(blocks))
