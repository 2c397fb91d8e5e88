"""Cores of attention."""

from lina_lab.util.registry import OpenRegistry
from lina_lab.variants.entry import GROUP, Core, nothing

CORES: OpenRegistry[Core] = OpenRegistry("kind", GROUP, Core)

CORES.register(
    Core(
        name="linear",
        documentation="kernel-based linear attention, whose cost grows with the number of tokens",
        module="lina_lab.model.cores:LinearCore",
        takes=frozenset({"feature_map", "normalization", "token weights"}),
        parameters=nothing,
        # Keys with values, queries with that, and the normalizer.
        multiply_adds=lambda g, tokens: 2 * tokens * g.dim * g.head_dim + tokens * g.dim,
        official=(),
    )
)
CORES.register(
    Core(
        name="softmax",
        documentation="softmax attention",
        module="lina_lab.model.cores:SoftmaxCore",
        parameters=nothing,
        multiply_adds=lambda g, tokens: 2 * tokens**2 * g.dim,
        official=(),
    )
)
CORES.register(
    Core(
        name="mediator",
        documentation="agent attention (arXiv 2312.08874): softmax through a few pooled queries",
        module="lina_lab.model.cores:MediatorCore",
        parameters=nothing,
        multiply_adds=lambda g, tokens: 4 * tokens * g.mediators * g.dim,
        orderless=False,
        official=(),
    )
)
