"""Positions of tokens on their grid, and what rotary ones turn."""

from lina_lab.util.registry import OpenRegistry
from lina_lab.variants.entry import FREE, GROUP, Geometry, Position, Rotate

POSITIONS: OpenRegistry[Position] = OpenRegistry("position", GROUP, Position)
ROTATIONS: OpenRegistry[Rotate] = OpenRegistry("rotate", GROUP, Rotate, unused="both")


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
        rotates=True,
        requires=_rotary_requires,
        **FREE,
    ),
):
    POSITIONS.register(entry)

for name, function, documentation in (
    ("both", "rotate_both", "queries and keys, before the feature map"),
    (
        "numerator",
        "rotate_numerator",
        "mapped queries and keys of the numerator; the normalizer has them as they are (SANA-Video, arXiv 2509.24695)",
    ),
    (
        "raw_numerator",
        "rotate_raw_numerator",
        "queries and keys of the numerator, which are not mapped; the normalizer's are, and not rotated (SANA-Video 2)",
    ),
):
    module = f"lina_lab.model.rotations:{function}"
    needs = None if name == "both" else "normalization"
    ROTATIONS.register(Rotate(name=name, documentation=documentation, module=module, needs=needs, **FREE))
