"""The model's configuration."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass

from lina_lab.config.attention import AttentionConfig, Placement, as_pattern, fill
from lina_lab.config.checks import CHECKS, Checked, OneOf, Pair, PositiveInt, Share
from lina_lab.config.tasks import TASKS, Task
from lina_lab.variants import POSITIONS, ROTATIONS, Geometry


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class LinaConfig(Checked):
    """One model: LINA, or another task's. The defaults are the published class-conditional LINA of width 768."""

    task: Annotated[str, OneOf(TASKS)] = "generation"
    """What is trained: generation is LINA; classification reads the mean of all tokens; diffusion predicts the velocity
    of all tokens at one noise level, as SiT does. All have the same blocks."""
    latent_channels: PositiveInt = 16
    """Channels C of a latent image."""
    latent_size: Pair = (16, 16)
    """Height and width of a latent image."""
    patch_size: PositiveInt = 1
    """Side p of the square patch that becomes one token of p*p*C numbers."""
    dim: PositiveInt = 768
    """Hidden size D of every transformer block."""
    num_heads: PositiveInt = 12
    """Attention heads."""
    condition_depth: PositiveInt = 16
    """Blocks of the condition encoder."""
    depth: PositiveInt = 32
    """Blocks of the masked encoder and the masked decoder together, half in each; even. Of other tasks: all blocks."""
    flow_depth: PositiveInt = 6
    """Residual MLP blocks of the flow head."""
    flow_dim: PositiveInt | None = None
    """Width of the flow head; null: the same as dim."""
    num_classes: PositiveInt | None = 1000
    """Number of classes for class conditioning; null: none."""
    text_dim: PositiveInt | None = None
    """Channels of the text encoder's hidden states for text conditioning; null: no text."""
    text_length: Annotated[int, Field(gt=0, le=512, strict=True)] = 256
    """Text tokens L in front of the condition tokens; shorter texts are padded."""
    position: Annotated[str, OneOf(POSITIONS)] = "sincos"
    """Position encoding: sincos is added to the tokens, rotary (RoPE) rotates queries and keys."""
    condition_dropout: Share = 0.1
    """Probability that a training sample's class or text is dropped, for classifier-free guidance (DiT's
    class_dropout_prob)."""
    norm_placement: Literal["after", "before"] = "after"
    """LayerNorm of a block's branches. after: at a branch's end, x + LN(f(x)), as in LINA; before: at its start,
    x + f(LN(x)), as in DiT."""
    label_smoothing: Share = 0.1
    """For task=classification: share of a training image's label that is spread over all classes."""
    noise_samples_per_token: PositiveInt = 4
    """Timesteps and noises sampled for each masked token in the loss (MAR's diffusion_batch_mul)."""
    attention: Placement = AttentionConfig()
    """Attention of the masked decoder, or of all blocks of other tasks; a list is a pattern that the blocks repeat."""
    encoder_attention: Placement | None = None
    """Attention of the masked encoder; null: the decoder's, without convolution and gate."""
    condition_attention: Placement | None = None
    """Attention of the condition encoder; null: the decoder's, without convolution and gate."""
    parametrization: Literal["standard", "mup"] = "standard"
    """How initial weights and the optimizer's settings depend on the width. standard: one learning rate for all
    weights; mup: maximal update parametrization, under which the best rate of base_dim is about the best of every
    width. It needs the same channels of a head at every width, so the number of heads grows with dim."""
    base_dim: PositiveInt | None = None
    """For parametrization=mup: the base width, at which muP equals the standard parametrization."""
    compile: bool = False
    """Compile each block with torch.compile. Blocks that are alike are compiled once, whatever the depth."""
    gradient_checkpointing: bool = False
    """Gradient checkpointing: activations inside blocks are recomputed in the backward pass, to save memory."""

    def _problems(self) -> Iterator[str]:
        if self.dim % self.num_heads:
            yield f"dim={self.dim} is not a multiple of num_heads={self.num_heads}"
        if self.depth % 2 and self.kind.condition_tokens:
            yield f"depth={self.depth} must be even: half is the encoder, half the decoder"
        if any(side % self.patch_size for side in self.latent_size):
            yield f"patch_size={self.patch_size} does not divide latent_size={list(self.latent_size)}"
        if self.num_classes is not None and self.text_dim is not None:
            yield "num_classes and text_dim are both set: a model is conditioned on one of them"
        if (misfit := self.kind.misfit(self)) is not None:
            yield misfit
        if (misfit := POSITIONS[self.position].misfit(self.image_geometry)) is not None:
            yield misfit
        yield from self._problems_of_attention()
        yield from self._problems_of_parametrization()

    def _problems_of_attention(self) -> Iterator[str]:
        for name in ("encoder_attention", "condition_attention"):
            if any(attention.tied_to_grid for attention in self._pattern(name)):
                yield f"{name} needs kind, conv and gate that do not need the whole grid: it does not see the grid"
        for name, depth in (
            ("attention", self._decoder_depth),
            ("encoder_attention", self.depth // 2),
            ("condition_attention", self.condition_depth),
        ):
            pattern = self._pattern(name)
            if getattr(self, name) is not None and (not pattern or depth % len(pattern)):
                yield f"{name} is a pattern of {len(pattern)}, which does not fill its {depth} blocks"
        stacks = (self.decoder_blocks, self.encoder_blocks, self.condition_blocks)
        for attention in dict.fromkeys(attention for stack in stacks for attention in stack):
            if (misfit := attention.misfit(self.geometry(attention))) is not None:
                yield misfit
            if attention.rotate != ROTATIONS.unused and not POSITIONS[self.position].rotates:
                yield f"rotate={attention.rotate} needs position=rotary: position={self.position} rotates nothing"

    def _problems_of_parametrization(self) -> Iterator[str]:
        if self.parametrization == "standard":
            if self.base_dim is not None:
                yield f"base_dim={self.base_dim} is for parametrization=mup"
        elif self.base_dim is None:
            yield "parametrization=mup needs base_dim, the width at which it equals the standard parametrization"
        elif self.base_dim % self.head_dim:
            yield (
                f"base_dim={self.base_dim} is not a multiple of the {self.head_dim} channels of a head, which "
                "parametrization=mup keeps at every width"
            )
        else:
            try:
                self.at_base_width()
            except ValidationError as error:
                yield f"base_dim={self.base_dim} makes no model: {error.errors()[0]['msg']}"

    def at_base_width(self) -> "LinaConfig":
        """For parametrization=mup: the model of the base width, in the standard parametrization."""
        assert self.base_dim is not None
        heads = self.base_dim // self.head_dim
        return replace(
            self, dim=self.base_dim, num_heads=heads, parametrization="standard", base_dim=None, compile=False
        )

    @property
    def head_dim(self) -> int:
        """Channels E of a head."""
        return self.dim // self.num_heads

    def geometry(self, attention: AttentionConfig) -> Geometry:
        """What an attention of this model is built for."""
        return attention.geometry(self.image_geometry)

    @property
    def image_geometry(self) -> Geometry:
        """For the image tokens: the grid of their positions, and of the attentions."""
        return Geometry(dim=self.dim, heads=self.num_heads, grid=self.grid, condition_tokens=self.condition_tokens)

    @property
    def condition_geometry(self) -> Geometry:
        """For the positions of the condition tokens."""
        return Geometry(dim=self.dim, heads=self.num_heads, grid=self.condition_grid, condition_tokens=0)

    def _pattern(self, name: str) -> tuple[AttentionConfig, ...]:
        placed: AttentionConfig | tuple[AttentionConfig, ...] | None = getattr(self, name)
        if placed is None:
            return tuple(attention.plain() for attention in self._pattern("attention"))
        return as_pattern(placed)

    @property
    def kind(self) -> Task:
        """The task's entry."""
        return TASKS[self.task]

    @property
    def _decoder_depth(self) -> int:
        return self.depth // 2 if self.kind.condition_tokens else self.depth

    @property
    def decoder_blocks(self) -> tuple[AttentionConfig, ...]:
        """The attention of each block of the masked decoder, or of each block of a task without condition tokens."""
        return fill(self._pattern("attention"), self._decoder_depth)

    @property
    def encoder_blocks(self) -> tuple[AttentionConfig, ...]:
        """The attention of each block of the masked encoder; () for a task without condition tokens."""
        return fill(self._pattern("encoder_attention"), self.depth - self._decoder_depth)

    @property
    def condition_blocks(self) -> tuple[AttentionConfig, ...]:
        """The attention of each block of the condition encoder; () for a task without condition tokens."""
        depth = self.condition_depth if self.kind.condition_tokens else 0
        return fill(self._pattern("condition_attention"), depth)

    @property
    def conditional(self) -> bool:
        """Whether there is a class or a text to drop."""
        return self.num_classes is not None or self.text_dim is not None

    @property
    def guidable(self) -> bool:
        """Whether it trains without its condition too, which classifier-free guidance needs."""
        return self.conditional and self.condition_dropout > 0

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
        """Condition tokens M; 0 for a task without them."""
        return self.condition_grid[0] * self.condition_grid[1] if self.kind.condition_tokens else 0

    @property
    def token_dim(self) -> int:
        """Numbers in one token, p*p*C."""
        return self.patch_size**2 * self.latent_channels


def mixed_widths(models: Iterable[LinaConfig]) -> str | None:
    """Why models under muP cannot share a learning rate, as a sentence; None: they can.

    Args:
        models: of one study. Those in the standard parametrization are not looked at.
    """
    scaled = [model for model in models if model.parametrization == "mup"]
    for name, values in (
        ("channels of a head", {str(model.head_dim) for model in scaled}),
        ("base_dim", {str(model.base_dim) for model in scaled}),
        ("flow_dim", {"null" if model.flow_dim is None else str(model.flow_dim) for model in scaled}),
    ):
        if len(values) > 1:
            listed = " and ".join(sorted(values, key=lambda text: (len(text), text)))
            return f"model.parametrization=mup needs the same {name} in all cells of a study, not {listed}"
    return None
