"""Cores of attention."""

from lina_lab.util.registry import OpenRegistry
from lina_lab.variants.entry import FREE, GROUP, Core, Geometry

CORES: OpenRegistry[Core] = OpenRegistry("kind", GROUP, Core)


def tiling(grid: tuple[int, int], blocks: int) -> tuple[int, int] | None:
    """Rows and columns of blocks on a grid: the tiles as square, then as equal, as possible; None: there are none."""
    found = [(n, blocks // n) for n in range(1, grid[0] + 1) if blocks % n == 0 and blocks // n <= grid[1]]
    return min(found, key=lambda tiles: _shape(grid, tiles), default=None)


def _shape(grid: tuple[int, int], tiles: tuple[int, int]) -> tuple[float, int]:
    """Of the largest tile: its longer side by its shorter one, and its tokens."""
    sides = [-(-side // count) for side, count in zip(grid, tiles, strict=True)]
    return max(sides) / min(sides), sides[0] * sides[1]


def _tiled_tokens(g: Geometry) -> int:
    """Tokens with those that fill up smaller blocks."""
    tiles = tiling(g.grid, g.blocks)
    assert tiles is not None  # `_blocks_requires`
    return g.condition_tokens + g.blocks * _shape(g.grid, tiles)[1]


def block_groups(g: Geometry) -> int:
    """Summaries of kind=blocks: the condition tokens are one block more."""
    return g.blocks + (g.condition_tokens > 0)


def _blocks_requires(g: Geometry) -> str | None:
    if tiling(g.grid, g.blocks) is None:
        return f"needs a number of blocks that tiles the grid: blocks={g.blocks} do not tile {g.grid[0]} x {g.grid[1]}"
    return None


# Other cores than blocks cost operations alone.
for entry in (
    Core(
        name="linear",
        documentation="kernel-based linear attention, whose cost grows with the number of tokens",
        module="lina_lab.model.cores:LinearCore",
        takes=frozenset({"feature_map", "normalization", "token weights"}),
        # Keys with values, queries with that, and the normalizer.
        **FREE | {"multiply_adds": lambda g, tokens: 2 * tokens * g.dim * g.head_dim + tokens * g.dim},
    ),
    Core(
        name="blocks",
        documentation="linear attention with a summary for each block of the image, and learned weights of all "
        "summaries for the queries of each block (as in MHLA, arXiv 2601.07832)",
        module="lina_lab.model.token_blocks:BlockCore",
        takes=frozenset({"feature_map", "normalization", "token weights"}),
        needs_grid=True,
        without_grid="linear",
        requires=_blocks_requires,
        parameters=lambda g: g.heads * block_groups(g) ** 2,
        # As linear, over filled blocks and with the mean of the keys, and the summaries with their weights.
        multiply_adds=lambda g, tokens: (2 * _tiled_tokens(g) + block_groups(g) ** 2) * g.dim * (g.head_dim + 1),
    ),
    Core(
        name="softmax",
        documentation="softmax attention",
        module="lina_lab.model.cores:SoftmaxCore",
        **FREE | {"multiply_adds": lambda g, tokens: 2 * tokens**2 * g.dim},
    ),
    Core(
        name="mediator",
        documentation="agent attention (arXiv 2312.08874): softmax through a few pooled queries",
        module="lina_lab.model.cores:MediatorCore",
        orderless=False,
        **FREE | {"multiply_adds": lambda g, tokens: 4 * tokens * g.mediators * g.dim},
    ),
):
    CORES.register(entry)
