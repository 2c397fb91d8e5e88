"""The configuration of one attention, and of the attentions of a stack of blocks."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

from pydantic import BeforeValidator, Discriminator, Tag
from pydantic.dataclasses import dataclass

from lina_lab.config.checks import CHECKS, ONE, SEVERAL, Checked, OneOf, PositiveInt
from lina_lab.util.registry import OpenRegistry
from lina_lab.variants import (
    CONVOLUTIONS,
    CORES,
    FEATURE_MAPS,
    GATES,
    HEAD_NORMS,
    NORMALIZATIONS,
    QK_NORMS,
    ROTATIONS,
    Geometry,
    Variant,
)

PARTS: dict[str, OpenRegistry[Variant]] = {
    registry.field: registry  # type: ignore[misc]
    for registry in (CORES, NORMALIZATIONS, FEATURE_MAPS, CONVOLUTIONS, GATES, QK_NORMS, ROTATIONS, HEAD_NORMS)
}
"""Field of `AttentionConfig` -> its variants."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class AttentionConfig(Checked):
    """One attention: its core, and what is added to it."""

    kind: Annotated[str, OneOf(CORES)] = "linear"
    """Attention type: kernel-based linear attention, the same with a summary for each block of the image (blocks),
    softmax attention, or agent attention, which is softmax attention through a few mediator tokens."""
    normalization: Annotated[str, OneOf(NORMALIZATIONS)] = "division"
    """How linear attention makes each row of its weights sum to one: by division, or by subtraction as in InLine
    attention. The other types normalize by themselves."""
    feature_map: Annotated[str, OneOf(FEATURE_MAPS)] = "relu"
    """Function applied to the queries and keys of linear attention. identity with division is known to diverge."""
    conv: Annotated[str, OneOf(CONVOLUTIONS)] = "depthwise"
    """Convolution that is added to the output: depthwise over the input's image tokens, or dynamic over the values
    (along the sequence, or dynamic2d on the grid), with kernels made from the input."""
    conv_kernel: PositiveInt = 5
    """Side of the convolution's kernel in tokens; odd."""
    gate: Annotated[str, OneOf(GATES)] = "kv"
    """Learned weights: on keys and values by position (kv, kv_shared, key, value, kv_decoupled) or by content
    (kv_data; beta on keys alone), on four groups of the sequence (memory), or on the output (output)."""
    mediators: PositiveInt = 64
    """Mediator tokens of kind=mediator."""
    blocks: PositiveInt = 16
    """Blocks of image tokens of kind=blocks. They tile the grid, as squares where that can be."""
    qk_norm: Annotated[str, OneOf(QK_NORMS)] = "none"
    """Norm of queries and keys before rotation and feature map: RMS over the whole width or over each head, or each
    query's direction to a power that grows with its norm (power)."""
    rotate: Annotated[str, OneOf(ROTATIONS)] = "both"
    """What position=rotary turns: queries and keys before the feature map (both), or those of the numerator alone,
    mapped (numerator) or not (raw_numerator), so that the normalizer stays positive; rows then need not sum to one."""
    head_norm: Annotated[str, OneOf(HEAD_NORMS)] = "none"
    """RMS norm of each head's output, before a convolution is added; gated_rms multiplies it with a sigmoid gate."""

    def _problems(self) -> Iterator[str]:
        if self.conv_kernel % 2 == 0:
            yield f"conv_kernel={self.conv_kernel} must be odd, so that the kernel has a center"
        core = CORES[self.kind]
        for variant in self.variants:
            unused = variant.name == PARTS[variant.field].unused
            if variant.needs is not None and variant.needs not in core.takes and not unused:
                cores = " or ".join(name for name, other in CORES.items() if variant.needs in other.takes)
                why = variant.why.format(kind=core.name) or f"{core.name} takes no {variant.needs}"
                yield f"{variant.field}={variant.name} needs kind={cores}: {why}"

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The entries of its core and its parts."""
        return tuple(registry[getattr(self, field)] for field, registry in PARTS.items())

    def geometry(self, model: Geometry) -> Geometry:
        """What its parts are built for, and what they cost depends on, in a model of this geometry."""
        return replace(model, kernel=self.conv_kernel, mediators=self.mediators, blocks=self.blocks)

    def misfit(self, geometry: Geometry) -> str | None:
        """Why the parts cannot be built for this geometry, as a sentence; None: they can."""
        return next((sentence for variant in self.variants if (sentence := variant.misfit(geometry))), None)

    def plain(self) -> "AttentionConfig":
        """The same core without what needs the grid, convolution and gate, as the two encoders have it."""
        kind = CORES[self.kind].without_grid or self.kind
        return replace(self, kind=kind, conv="none", gate="none")

    @property
    def tied_to_grid(self) -> bool:
        """Whether it takes only sequences of all condition and image tokens, in their order."""
        return any(variant.needs_grid for variant in self.variants)


# The tags tell pydantic which of the two is meant, and are kept out of its errors (see `checks.TAGS`).
Placement = Annotated[
    Annotated[AttentionConfig, Tag(ONE)] | Annotated[tuple[AttentionConfig, ...], BeforeValidator(tuple), Tag(SEVERAL)],
    Discriminator(lambda v: SEVERAL if isinstance(v, list | tuple) else ONE),
]
"""One attention for all blocks of a stack, or a pattern of several that its blocks repeat."""


def as_pattern(placed: "AttentionConfig | tuple[AttentionConfig, ...]") -> tuple[AttentionConfig, ...]:
    """The pattern that a stack's blocks repeat, also where it is one attention."""
    return (placed,) if isinstance(placed, AttentionConfig) else placed


def fill(pattern: tuple[AttentionConfig, ...], blocks: int) -> tuple[AttentionConfig, ...]:
    """The attention of each of so many blocks."""
    return tuple(pattern[i % len(pattern)] for i in range(blocks))
