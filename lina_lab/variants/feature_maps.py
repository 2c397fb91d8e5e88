"""Feature maps and normalizations of linear attention: they cost nothing that is counted."""

from lina_lab.util.registry import OpenRegistry
from lina_lab.variants.entry import FREE, GROUP, FeatureMap, Normalization

FEATURE_MAPS: OpenRegistry[FeatureMap] = OpenRegistry("feature_map", GROUP, FeatureMap, unused="relu")
NORMALIZATIONS: OpenRegistry[Normalization] = OpenRegistry("normalization", GROUP, Normalization, unused="division")

for name, documentation in {
    "relu": "max(x, 0)",
    "elu": "elu(x) + 1 (arXiv 2006.16236)",
    "identity": "x; under division it is known to diverge",
    "exp": "exp(x), flat above 10",
    "leaky_relu": "x, or 0.01 x below 0",
    "softplus": "log(1 + exp(x))",
    "squared_relu": "max(x, 0) squared",
}.items():
    FEATURE_MAPS.register(
        FeatureMap(name=name, documentation=documentation, module=f"lina_lab.model.feature_maps:{name.upper()}", **FREE)
    )

for name, documentation in {
    "division": "each output is a weighted mean of the values (arXiv 2006.16236)",
    "subtraction": "what the weights lack of one is spread evenly over the tokens (InLine attention, arXiv 2412.06590)",
}.items():
    NORMALIZATIONS.register(
        Normalization(
            name=name,
            documentation=documentation,
            module=f"lina_lab.model.linear:{name.upper()}",
            official_queries_apart=name == "subtraction",
            **FREE,
        )
    )
