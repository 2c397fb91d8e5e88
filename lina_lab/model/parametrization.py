"""muP, the maximal update parametrization (arXiv 2203.03466): how a parameter's settings depend on the width.

A model of width D under muP has the settings of its base width D0 times the factors here, with m = D / D0. A
parameter's kind follows from the model of the base width: it says which sides of a weight grow with the width. So every
parameter has a rule, those of other packages' variants too, or the model is refused.

The paper gives the last layer a factor 1/m on its output and the full learning rate. That is the same training as no
factor on the output and a rate of 1/m, because the layer starts at zero and Adam's steps do not depend on the size of
the gradients. Here the rate has the factor: a model under muP computes the same from its weights as a standard one, and
its weights are read and exported alike.
"""

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import nn

from lina_lab.config import LinaConfig

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
"""Modules whose `weight` is multiplied with their inputs: [outputs, inputs of an output...]."""


class ParameterKind(StrEnum):
    """Which sides of a parameter grow with the width."""

    SCALAR = "scalar"
    """Neither: the last layer's bias, a gate that all heads share."""
    INPUT = "input"
    """The outputs: input layers, embeddings, tokens, biases, norms, gates by position, convolutions by channel."""
    HIDDEN = "hidden"
    """Inputs and outputs: projections, MLPs, AdaLN modulations, gates from the data."""
    OUTPUT = "output"
    """The inputs: the last layer, and one to a flow head of fixed width."""


@dataclass(frozen=True, kw_only=True)
class WidthFactors:
    """Factors on a parameter's settings at base width."""

    init: float = 1.0
    """On the standard deviation of its first values, which is already as 1/√inputs."""
    rate: float = 1.0
    """On the learning rate."""
    weight_decay: float = 1.0
    """On the weight decay, which the optimizer multiplies with the learning rate."""
    eps: float = 1.0
    """On Adam's epsilon, which is compared with gradients."""


def factors_of_kind(kind: ParameterKind, m: float) -> WidthFactors:
    """The factors of a kind of parameter at m times the base width."""
    match kind:
        case ParameterKind.SCALAR:
            return WidthFactors()
        case ParameterKind.INPUT:
            return WidthFactors(eps=1 / m)
        case ParameterKind.HIDDEN:
            return WidthFactors(rate=1 / m, weight_decay=m, eps=1 / m)
        case ParameterKind.OUTPUT:
            return WidthFactors(init=m**-0.5, rate=1 / m, weight_decay=m)


def width_factors(model: nn.Module) -> dict[str, WidthFactors]:
    """The factors of each parameter by its name; all are 1 in the standard parametrization and at base width.

    Raises:
        ValueError: muP has no rule for a parameter; the sentence names it.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, LinaConfig) or config.base_dim in (None, config.dim):
        return {name: WidthFactors() for name, _ in model.named_parameters()}
    assert config.base_dim is not None
    m = config.dim / config.base_dim
    return {name: factors_of_kind(kind, m) for name, kind in parameter_kinds(model, config).items()}


def parameter_kinds(model: nn.Module, config: LinaConfig) -> dict[str, ParameterKind]:
    """The kind of each parameter by its name.

    Args:
        model: a `LINA`, on any device, sharded or not.
        config: its configuration, whose width is not the base width.

    Raises:
        ValueError: see `width_factors`.
    """
    assert config.base_dim is not None
    m = config.dim / config.base_dim
    with torch.device("meta"):
        base = type(model)(config.at_base_width())
    found = {}
    for name, parameter in model.named_parameters():
        owner, _, own_name = name.rpartition(".")
        layer = isinstance(model.get_submodule(owner), LAYERS) and own_name == "weight"
        growth = [a / b for a, b in zip(_sides(parameter, layer), _sides(base.get_parameter(name), layer), strict=True)]
        if any(side not in (1, m) for side in growth):
            raise ValueError(
                f"model.parametrization=mup has no rule for {name}, which is {list(parameter.shape)} at width "
                f"{config.dim} and {list(base.get_parameter(name).shape)} at base_dim={config.base_dim}"
            )
        outputs, inputs = (side != 1 for side in growth)
        if inputs:
            found[name] = ParameterKind.HIDDEN if outputs else ParameterKind.OUTPUT
        else:
            found[name] = ParameterKind.INPUT if outputs else ParameterKind.SCALAR
    return found


def _sides(parameter: nn.Parameter, layer: bool) -> tuple[int, int]:
    """Outputs, and inputs that each output sums over; a parameter that is no layer's weight acts elementwise."""
    return (len(parameter), parameter.numel() // len(parameter)) if layer else (parameter.numel(), 1)
