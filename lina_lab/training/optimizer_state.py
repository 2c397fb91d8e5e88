"""The optimizer's state in a checkpoint: by parameter names, under every strategy.

`torch.distributed.checkpoint.state_dict` does the work. What is left here is the other numbering, by the index of each
parameter in `module.parameters()`: Lightning's strategy for sharded weights saves it, and so did version 0.1.
"""

from typing import Any

from torch import nn

State = dict[str, Any]
"""An optimizer's `state_dict`."""


def with_names(state: State, module: nn.Module) -> State:
    """A state by the indices of the parameters as one by their names."""
    names = [name for name, _ in module.named_parameters()]
    groups = [{**group, "params": [names[index] for index in group["params"]]} for group in state["param_groups"]]
    return {"state": {names[index]: value for index, value in state["state"].items()}, "param_groups": groups}
