"""Norms inside attention: of queries and keys, and of each head's output."""

from lina_lab.util.registry import OpenRegistry
from lina_lab.variants.entry import FREE, GROUP, HeadNorm, QkNorm, linear, nothing

QK_NORMS: OpenRegistry[QkNorm] = OpenRegistry("qk_norm", GROUP, QkNorm, unused="none")
HEAD_NORMS: OpenRegistry[HeadNorm] = OpenRegistry("head_norm", GROUP, HeadNorm, unused="none")
MODULE = "lina_lab.model.norms"

QK_NORMS.register(QkNorm(name="none", documentation="no norm of queries and keys", module=f"{MODULE}:no_norm", **FREE))
for name, documentation in {
    "width": "RMS norms of queries and keys over the whole width (as in SANA-Video 2)",
    "head": "RMS norms of queries and keys over the channels of each head (after arXiv 2010.04245)",
}.items():
    QK_NORMS.register(
        QkNorm(
            name=name,
            documentation=documentation,
            module=f"{MODULE}:{name.upper()}_QK_NORM",
            parameters=lambda g: 2 * g.dim,
            multiply_adds=nothing,
        )
    )

QK_NORMS.register(
    QkNorm(
        name="power",
        documentation="directions of queries to the power 3 (1/2 + tanh |q|), with signs, and keys cubed, so that "
        "longer queries attend more sharply under division too (as in NaLaFormer, arXiv 2506.21137)",
        module=f"{MODULE}:PowerNorm",
        **FREE,
    )
)

for entry in (
    HeadNorm(name="none", documentation="no norm of the heads' outputs", module=f"{MODULE}:no_norm", **FREE),
    HeadNorm(
        name="rms",
        documentation="an RMS norm of each head's output (as in arXiv 2210.10340)",
        module=f"{MODULE}:HeadNorm",
        parameters=lambda g: g.dim,
        multiply_adds=nothing,
    ),
    HeadNorm(
        name="gated_rms",
        documentation="as rms, times a sigmoid gate from a linear layer of the token (as in SANA-Video 2)",
        module=f"{MODULE}:GatedHeadNorm",
        parameters=lambda g: g.dim + linear(g.dim, g.dim),
        multiply_adds=lambda g, tokens: tokens * g.dim**2,
    ),
):
    HEAD_NORMS.register(entry)
