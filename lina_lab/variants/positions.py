"""Positions of tokens on their grid."""

from lina_lab.util.registry import OpenRegistry
from lina_lab.variants.entry import FREE, GROUP, Geometry, Position

POSITIONS: OpenRegistry[Position] = OpenRegistry("position", GROUP, Position)


def _sincos_requires(g: Geometry) -> str | None:
    return f"needs a dim that is a multiple of 4: dim={g.dim}" if g.dim % 4 else None


def _rotary_requires(g: Geometry) -> str | None:
    if g.head_dim % 32:
        return f"needs heads of a multiple of 32 channels: dim={g.dim}, num_heads={g.heads}"
    return None


for entry in (
    Position(
        name="sincos",
        documentation="a fixed code of sines and cosines, added to the tokens",
        module="lina_lab.model.backbone:SincosPositions",
        time_zero=True,
        requires=_sincos_requires,
        **FREE,
    ),
    Position(
        name="rotary",
        documentation="axial rotary positions: queries and keys are rotated (RoPE, arXiv 2104.09864)",
        module="lina_lab.model.backbone:RotaryPositions",
        requires=_rotary_requires,
        **FREE,
    ),
):
    POSITIONS.register(entry)
