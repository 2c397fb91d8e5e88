"""Cores of attention."""

from lina_lab.util.registry import OpenRegistry
from lina_lab.variants.entry import FREE, GROUP, Core

CORES: OpenRegistry[Core] = OpenRegistry("kind", GROUP, Core)

# Cores cost operations alone.
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
