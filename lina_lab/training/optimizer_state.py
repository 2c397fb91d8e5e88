"""The optimizer's state in a checkpoint: by parameter names, under every strategy.

`torch.distributed.checkpoint.state_dict` does the work. What is left here is the other numbering, by the index of each
parameter in `module.parameters()`: Lightning's strategy for sharded weights saves it, and so did version 0.1.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

State = dict[str, Any]
"""An optimizer's `state_dict`."""
LAYOUT = 3
"""Version of the layout of checkpoints. 3: the optimizer's state by parameter names, the data module's under `data`."""


def with_names(state: State, module: nn.Module) -> State:
    """A state by the indices of the parameters as one by their names."""
    names = [name for name, _ in module.named_parameters()]
    groups = [{**group, "params": [names[index] for index in group["params"]]} for group in state["param_groups"]]
    return {"state": {names[index]: value for index, value in state["state"].items()}, "param_groups": groups}


def take_moments(optimizer: torch.optim.Optimizer, state: State, module: nn.Module, names: Collection[str]) -> None:
    """Give a fresh optimizer another one's state of some parameters; the others begin without any.

    Args:
        optimizer: has taken no step.
        state: the other's, by the names of its parameters.
        module: has the parameters; where they are sharded, all ranks call this together.
        names: the parameters.
    """
    known = {id(parameter): name for name, parameter in module.named_parameters()}
    own = optimizer.state_dict()
    for group, numbered in zip(optimizer.param_groups, own["param_groups"], strict=True):
        for parameter, number in zip(group["params"], numbered["params"], strict=True):
            name = known[id(parameter)]
            if name in names and name in state["state"]:
                parts = state["state"][name].items()
                own["state"][number] = {part: _placed(value, parameter) for part, value in parts}
    # It moves what it is given to the parameters' device and type, as the optimizer needs it.
    optimizer.load_state_dict(own)


def _placed(value: Any, parameter: Tensor) -> Any:
    """A value of the state, sharded as its parameter is."""
    if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value.clone() if isinstance(value, Tensor) else value
