"""The optimizer of a trial, and the built-in ones; their entries are in `lina_lab/config/optimizers.py`."""

from typing import Any

import torch
from torch import nn

from lina_lab.config import OptimizerConfig
from lina_lab.config.optimizers import OPTIMIZERS
from lina_lab.model.parametrization import WidthFactors, width_factors
from lina_lab.util.errors import first_line

NORMS = (nn.LayerNorm, nn.RMSNorm)
"""Modules whose parameters have no weight decay."""


def adamw(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Fused AdamW for groups of parameters, each with its own weight decay."""
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of a model, with the learning rates, weight decays and epsilons of its parametrization.

    Raises:
        ValueError: muP has no rule for a parameter, the optimizer does not keep the groups that the rules need, or it
            leaves out a parameter.
    """
    entry, grouped = OPTIMIZERS[config.name], grouped_parameters(model)
    groups = [
        {"params": parameters, "weight_decay": config.weight_decay * factors.weight_decay if decays else 0.0}
        for (decays, factors), parameters in grouped.items()
    ]
    if entry.matrices:
        matrices = block_matrices(model)
        groups = [part for group in groups for part in _split(group, matrices)]
    try:
        optimizer: torch.optim.Optimizer = entry.load()(groups, config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer.name={config.name} cannot be made: {first_line(error)}") from error
    _check_complete(optimizer, model, config.name)
    every = [factors for _, factors in grouped]
    if any(factors != WidthFactors() for factors in every):
        if len(optimizer.param_groups) != len(every):
            raise ValueError(f"optimizer.name={config.name} changes the groups that model.parametrization=mup needs")
        for group, factors in zip(optimizer.param_groups, every, strict=True):
            group["lr"] *= factors.rate
            if "eps" in group:
                group["eps"] *= factors.eps
    return optimizer


def _split(group: dict[str, Any], matrices: set[int]) -> list[dict[str, Any]]:
    """A group as one of matrices and one of other parameters, without empty ones."""
    parts = ([p for p in group["params"] if (id(p) in matrices) == own] for own in (True, False))
    return [{**group, "params": part, "matrices": own} for own, part in zip((True, False), parts, strict=True) if part]


def _check_complete(optimizer: torch.optim.Optimizer, model: nn.Module, name: str) -> None:
    """Refuse an optimizer that would leave some parameters as they are."""
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    left = [own for own, p in model.named_parameters() if p.requires_grad and id(p) not in known]
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise ValueError(f"optimizer.name={name} does not know the parameter {left[0]}{more}, which is to be trained")


def block_matrices(model: nn.Module) -> set[int]:
    """The `id` of each hidden matrix: the weights of linear layers in blocks.

    Input layers, embeddings, conditioning of the flow head and the last layer are not in blocks.
    """
    blocks = [block for stack in model.modules() if isinstance(stack, nn.ModuleList) for block in stack]
    layers = [layer for block in blocks for layer in block.modules() if isinstance(layer, nn.Linear)]
    return {id(layer.weight) for layer in layers}


def grouped_parameters(model: nn.Module) -> dict[tuple[bool, WidthFactors], list[nn.Parameter]]:
    """The trainable parameters by (whether they have weight decay, their factors); norms have no weight decay."""
    norms = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
    factors, found = width_factors(model), dict[tuple[bool, WidthFactors], list[nn.Parameter]]()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    for decays in (True, False):
        for name, parameter in trained:
            if (id(parameter) not in norms) == decays:
                found.setdefault((decays, factors[name]), []).append(parameter)
    return found
