"""What an entry says of a variant."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from lina_lab.util.registry import resolve

GROUP = "lina_lab.variants"
"""Entry points of other packages, for variants of every kind."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What a part of attention is built for, and what its costs depend on."""

    dim: int
    """Width D."""
    heads: int
    """Attention heads H; divides `dim`."""
    grid: tuple[int, int] = (16, 16)
    """Rows and columns of the image tokens."""
    condition_tokens: int = 64
    """Condition tokens M in front of the image tokens."""
    kernel: int = 5
    """Side of a convolution's kernel in tokens; odd."""
    mediators: int = 64
    """Mediators of kind=mediator."""
    blocks: int = 16
    """Blocks of image tokens of kind=blocks."""

    @property
    def image_tokens(self) -> int:
        """Image tokens N."""
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """All tokens T = M + N."""
        return self.condition_tokens + self.image_tokens

    @property
    def head_dim(self) -> int:
        """Channels E of a head."""
        return self.dim // self.heads


@dataclass(frozen=True)
class OfficialWeight:
    """A tensor of a variant in the authors' files.

    Axes are terms between spaces: `1`, `dim`, `heads`, `tokens`, `groups`, `kernel`, and `dim/heads` or `dim*kernel`.
    A term that names a size lets the size be read from the authors' tensor.
    """

    ours: str
    """Name inside the variant's module, such as `key_scale`."""
    official: str
    """Name inside the authors' attention."""
    axes: str
    """Axes of the authors' tensor."""
    our_axes: str | None = None
    """Axes of ours where they differ: `axes` without some of the ones."""

    def matches(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape can be it: the number of axes, and each `1`."""
        terms = self.axes.split()
        return len(terms) == len(shape) and all(s == 1 for t, s in zip(terms, shape, strict=True) if t == "1")

    def sizes(self, shape: tuple[int, ...], dim: int) -> dict[str, int]:
        """The sizes that the authors' tensor shows, by name, at width `dim`."""
        found = {}
        for term, size in zip(self.axes.split(), shape, strict=True):
            if term.startswith("dim/"):
                found[term[4:]] = dim // size
            elif term.startswith("dim*"):
                found[term[4:]] = size // dim
            elif term not in ("1", "dim"):
                found[term] = size
        return found


def official_layer(name: str, axes: str, official: str | None = None) -> tuple[OfficialWeight, OfficialWeight]:
    """Weight and bias of a layer whose weight has these axes; None: the authors call it by the same name."""
    theirs, outputs = official or name, axes.partition(" ")[0]
    bias = OfficialWeight(f"{name}.bias", f"{theirs}.bias", outputs)
    return OfficialWeight(f"{name}.weight", f"{theirs}.weight", axes), bias


Count = Callable[[Geometry], int]
TokenCount = Callable[[Geometry, int], int]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One value of one field of the model's configuration."""

    field: ClassVar[str]
    """The configuration's field."""

    name: str
    """The field's value."""
    documentation: str
    """One line for the help: formula or idea, and its source."""
    module: Any
    """What the model is built with, as "package.module:attribute", imported when a model is built, or the object."""
    parameters: Count | None = None
    """Parameters, from the geometry. Required; `nothing` where there are none."""
    multiply_adds: TokenCount | None = None
    """Multiply-adds of one forward pass of one sample over so many tokens, in linear layers, matrix products and
    convolutions. Required; `nothing` where there are none."""
    needs_grid: bool = False
    """Whether it takes only sequences of all condition and image tokens, in their order."""
    needs: str | None = None
    """What it needs of the core, one of `Core.takes`; None: nothing, so that it goes with every core."""
    why: str = ""
    """Why it needs that, for the message that refuses another core, where `{kind}` is the core's name."""
    requires: Callable[[Geometry], str | None] | None = None
    """What a geometry lacks, as a predicate such as "needs a multiple of 4 tokens, not 7"; None: it fits."""
    official: tuple[OfficialWeight, ...] | None = None
    """Its tensors in the authors' files; () where it has none there, None where the authors do not have the variant."""

    def check(self) -> None:
        """Refuse an entry without counts: an unknown cost must never be taken for 0.

        Raises:
            ValueError: which count is missing.
        """
        missing = [count for count in ("parameters", "multiply_adds") if not callable(getattr(self, count))]
        if missing:
            raise ValueError(
                f"{self.field}={self.name} has no {' and no '.join(missing)}: an entry says what its variant costs"
            )

    def count_parameters(self, geometry: Geometry) -> int:
        """Parameters at this geometry."""
        assert self.parameters is not None  # `check`
        return self.parameters(geometry)

    def count_multiply_adds(self, geometry: Geometry, tokens: int) -> int:
        """Multiply-adds of one forward pass of one sample over `tokens` tokens."""
        assert self.multiply_adds is not None  # `check`
        return self.multiply_adds(geometry, tokens)

    def misfit(self, geometry: Geometry) -> str | None:
        """Why it cannot be built for this geometry, as a sentence; None: it can."""
        problem = None if self.requires is None else self.requires(geometry)
        return None if problem is None else f"{self.field}={self.name} {problem}"

    def load(self) -> Any:
        """The object that `module` names."""
        return resolve(self.module)


@dataclass(frozen=True, kw_only=True)
class Core(Variant):
    """What mixes the tokens.

    Its module maps (AttentionConfig, Geometry) to an `nn.Module` that keeps nothing between calls. The forward method
    maps stacked queries, keys and values [3, B, H, T, E] and a gate's `Weights` to [B, H, T, E].
    """

    field: ClassVar[str] = "kind"
    takes: frozenset[str] = frozenset()
    """What it uses: "feature_map", "normalization" (and a numerator of its own), "token weights" (of gates)."""
    orderless: bool = True
    """Whether a permutation of the tokens permutes its outputs."""
    without_grid: str | None = None
    """For a core that needs the grid: the kind that encoders have in its place by default."""


@dataclass(frozen=True, kw_only=True)
class Gate(Variant):
    """Learned weights. Its module maps a Geometry to a `lina_lab.model.gates.Gate`."""

    field: ClassVar[str] = "gate"
    needs: str | None = "token weights"
    """As in `Variant`; None for a gate that acts on the output alone, which goes with every core."""
    why: str = "it acts after the feature map"
    by_position: tuple[str, ...] = ()
    """Names of its parameters that hold a weight for each token, [H or 1, T, 1]; `inherit` interpolates them."""


@dataclass(frozen=True, kw_only=True)
class Convolution(Variant):
    """A convolution that is added to the core's output.

    Its module maps a Geometry to an `nn.Module`, whose forward method maps the input and the values, [B, T, D] each, to
    what is added, [B, T, D].
    """

    field: ClassVar[str] = "conv"


@dataclass(frozen=True, kw_only=True)
class FeatureMap(Variant):
    """A function of queries and keys. Its module is a `lina_lab.model.feature_maps.FeatureMap`."""

    field: ClassVar[str] = "feature_map"
    needs: str | None = "feature_map"
    why: str = "{kind} has none"


@dataclass(frozen=True, kw_only=True)
class Normalization(Variant):
    """How rows of weights are made to sum to one. Its module is a `lina_lab.model.linear.Normalization`."""

    field: ClassVar[str] = "normalization"
    needs: str | None = "normalization"
    why: str = "{kind} has its own normalization"
    official_queries_apart: bool = False
    """Whether the authors' files hold the query projection apart from that of keys and values."""


@dataclass(frozen=True, kw_only=True)
class QkNorm(Variant):
    """A norm of queries and keys before rotation and feature map.

    Its module maps a Geometry to an `nn.Module`, or None, whose forward method maps queries, keys and values side by
    side, [B, T, 3 D], to the same.
    """

    field: ClassVar[str] = "qk_norm"


@dataclass(frozen=True, kw_only=True)
class Rotate(Variant):
    """What rotary positions turn.

    Its module maps a core, stacked queries, keys and values [3, B, H, T, E], a gate's `Weights` and a `Rotation` to the
    core's outputs [B, H, T, E]. Where the numerator has queries and keys of its own, the core takes a third argument, a
    `lina_lab.model.linear.Numerator`.
    """

    field: ClassVar[str] = "rotate"
    why: str = "{kind} has no numerator of its own"


@dataclass(frozen=True, kw_only=True)
class HeadNorm(Variant):
    """A norm of each head's output, before a convolution is added.

    Its module maps a Geometry to an `nn.Module`, or None, whose forward method maps the attention's input and the
    core's output, [B, T, D] each, to [B, T, D].
    """

    field: ClassVar[str] = "head_norm"


@dataclass(frozen=True, kw_only=True)
class Position(Variant):
    """Positions of tokens. Its module maps a Geometry, whose grid it codes, to a `lina_lab.model.backbone.Positions`.

    Counted once for the image's grid and once for the condition's.
    """

    field: ClassVar[str] = "position"
    rotates: bool = False
    """Whether it gives a rotation of queries and keys."""
    time_zero: bool = False
    """Whether each condition token gets the constant of time 0, as in the published models with added positions."""


def nothing(geometry: Geometry, tokens: int = 0) -> int:
    """No parameters, or no multiply-adds."""
    return 0


FREE: dict[str, Any] = {"parameters": nothing, "multiply_adds": nothing, "official": ()}
"""Fields of an entry whose variant has no parameters and costs nothing, in the authors' models too."""


def linear(inputs: int, outputs: int) -> int:
    """Parameters of a linear layer with bias."""
    return inputs * outputs + outputs
