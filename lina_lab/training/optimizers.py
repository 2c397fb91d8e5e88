"""The optimizer of a trial, and the built-in ones; their entries are in `lina_lab/config/optimizers.py`."""

from typing import Any

import torch
from torch import nn

from lina_lab.config import OptimizerConfig
from lina_lab.config.optimizers import OPTIMIZERS
from lina_lab.model.parametrization import WidthFactors, width_factors


def adamw(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Fused AdamW for groups of parameters, each with its own weight decay."""
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of a model, with the learning rates, weight decays and epsilons of its parametrization.

    Raises:
        ValueError: muP has no rule for a parameter, or the optimizer does not keep the groups that the rules need.
    """
    grouped = grouped_parameters(model)
    groups = [
        {"params": parameters, "weight_decay": config.weight_decay * factors.weight_decay if decays else 0.0}
        for (decays, factors), parameters in grouped.items()
    ]
    optimizer: torch.optim.Optimizer = OPTIMIZERS[config.name].load()(groups, config)
    every = [factors for _, factors in grouped]
    if any(factors != WidthFactors() for factors in every):
        if len(optimizer.param_groups) != len(every):
            raise ValueError(f"optimizer.name={config.name} changes the groups that model.parametrization=mup needs")
        for group, factors in zip(optimizer.param_groups, every, strict=True):
            group["lr"] *= factors.rate
            if "eps" in group:
                group["eps"] *= factors.eps
    return optimizer


def grouped_parameters(model: nn.Module) -> dict[tuple[bool, WidthFactors], list[nn.Parameter]]:
    """The trainable parameters by (whether they have weight decay, their factors); norms have no weight decay."""
    norms = {id(p) for m in model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters(recurse=False)}
    factors, found = width_factors(model), dict[tuple[bool, WidthFactors], list[nn.Parameter]]()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    for decays in (True, False):
        for name, parameter in trained:
            if (id(parameter) not in norms) == decays:
                found.setdefault((decays, factors[name]), []).append(parameter)
    return found
