"""Initial weights, sampled from a seed without touching the global generator.

Each parameter has its own generator, seeded by (seed, the parameter's name). So two variants with one seed start from
the same numbers wherever they share a parameter, and their runs are paired from the first step.
"""

import math

import torch
from torch import nn

from lina_lab.model.backbone import ConditionEncoder, MaskedAutoencoder
from lina_lab.model.conditions import PooledText, TextEmbedding
from lina_lab.model.layers import ZeroLinear
from lina_lab.model.parametrization import LAYERS, width_factors
from lina_lab.util.seeds import seeded

TOKEN_STD = 0.02
TOKENS = (ConditionEncoder, MaskedAutoencoder, nn.Embedding, PooledText, TextEmbedding)
"""Modules whose own parameters are tokens or tables of them."""


@torch.no_grad()
def initialize(model: nn.Module, seed: int, rng_version: int = 1) -> None:
    """Sample every parameter of `model` anew.

    Linear layers and convolutions: uniform within `1/√fan_in`, PyTorch's default. Start, mask and class tokens and the
    text table: normal with standard deviation 0.02. AdaLN modulations and the model's last layer: zero, as in DiT.
    Norms and gates keep the values that their modules are built with. Under muP, layers whose inputs alone grow with
    the width have a smaller range (`lina_lab.model.parametrization`).

    Args:
        model: changed in place.
        seed: of the weights.
        rng_version: one of `seeds.RNG_VERSIONS`.
    """
    factors = width_factors(model)
    for name, module in model.named_modules():
        for own_name, parameter in module.named_parameters(recurse=False):
            full_name = f"{name}.{own_name}" if name else own_name
            generator = seeded(rng_version, seed, full_name)
            if isinstance(module, LAYERS):
                zero = isinstance(module, ZeroLinear)
                bound = 0.0 if zero else factors[full_name].init / math.sqrt(module.weight[0].numel())
                parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
            elif isinstance(module, TOKENS):
                parameter.copy_(torch.empty(parameter.shape).normal_(0, TOKEN_STD, generator=generator))
