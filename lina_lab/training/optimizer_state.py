"""The optimizer's state in a checkpoint: by parameter names, under every strategy.

`torch.distributed.checkpoint.state_dict` does the work. What is left here is the other numbering, by the index of each
parameter in `module.parameters()`: Lightning's strategy for sharded weights saves it, and so did version 0.1.
"""

from typing import Any

from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.optim import Optimizer

State = dict[str, Any]
"""An optimizer's `state_dict`."""


def named_state(module: nn.Module, optimizer: Optimizer) -> State:
    """The state of an optimizer whose parameters every rank holds whole."""
    return get_optimizer_state_dict(module, optimizer)


def load_named_state(module: nn.Module, optimizer: Optimizer, state: State) -> None:
    """Give such an optimizer a state by names, whatever the order and the groups that it was saved with.

    Raises:
        RuntimeError: a trained parameter has no state.
    """
    set_optimizer_state_dict(module, optimizer, state)


def with_names(state: State, module: nn.Module) -> State:
    """A state by the indices of the parameters as one by their names."""
    names = [name for name, _ in module.named_parameters()]
    groups = [{**group, "params": [names[index] for index in group["params"]]} for group in state["param_groups"]]
    return {"state": {names[index]: value for index, value in state["state"].items()}, "param_groups": groups}
