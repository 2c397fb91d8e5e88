"""Every variant of the model as ONE entry: its name, its module, what it costs, what it needs, the authors' names.

The configuration's allowed values and rules, the counts, the model's construction, the detection of the authors'
weights and the help are read from the entries. Nothing here imports torch: an entry names its module, and the model
imports it.

A package of somebody else's adds a variant by an entry point of the group `lina_lab.variants`, see CONTRIBUTING.md.
"""

from lina_lab.variants.convolutions import CONVOLUTIONS
from lina_lab.variants.cores import CORES
from lina_lab.variants.entry import (
    Convolution,
    Core,
    FeatureMap,
    Gate,
    Geometry,
    HeadNorm,
    Normalization,
    OfficialWeight,
    Position,
    QkNorm,
    Rotate,
    Variant,
    linear,
    nothing,
)
from lina_lab.variants.feature_maps import FEATURE_MAPS, NORMALIZATIONS
from lina_lab.variants.gates import GATES
from lina_lab.variants.norms import HEAD_NORMS, QK_NORMS
from lina_lab.variants.positions import POSITIONS, ROTATIONS

__all__ = [
    "CONVOLUTIONS",
    "CORES",
    "FEATURE_MAPS",
    "GATES",
    "HEAD_NORMS",
    "NORMALIZATIONS",
    "POSITIONS",
    "QK_NORMS",
    "ROTATIONS",
    "Convolution",
    "Core",
    "FeatureMap",
    "Gate",
    "Geometry",
    "HeadNorm",
    "Normalization",
    "OfficialWeight",
    "Position",
    "QkNorm",
    "Rotate",
    "Variant",
    "linear",
    "nothing",
]
