"""The optimizer's state in a checkpoint: by each parameter's place in the module, whatever groups the optimizer makes.

PyTorch numbers parameters in the order of the optimizer's groups; Lightning's strategy for sharded weights numbers them
in the order of the module. With the latter everywhere, a checkpoint goes on under either.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

State = dict[str, Any]
Groups = Sequence[Mapping[str, Any]]
"""An optimizer's groups of parameters, as it was made with them."""


def by_place(state: State, groups: Groups, module: nn.Module) -> State:
    """An optimizer's `state_dict` with the places of its parameters in the module as their numbers."""
    return _renumbered(state, _places(groups, module))


def by_group(state: State, groups: Groups, module: nn.Module) -> State:
    """What `by_place` made, as the optimizer takes it."""
    place_of = _places(groups, module)
    number_of = {place: number for number, place in place_of.items()}
    loaded = _renumbered(state, number_of)
    # In each group the optimizer expects its own order.
    return {**loaded, "param_groups": [{**g, "params": sorted(g["params"])} for g in loaded["param_groups"]]}


def _places(groups: Groups, module: nn.Module) -> dict[int, int]:
    """Number in the optimizer -> place in the module."""
    places = {id(parameter): place for place, parameter in enumerate(module.parameters())}
    parameters = [parameter for group in groups for parameter in group["params"]]
    return {number: places[id(parameter)] for number, parameter in enumerate(parameters)}


def _renumbered(state: State, numbers: dict[int, int]) -> State:
    return {
        "state": {numbers[number]: value for number, value in state["state"].items()},
        "param_groups": [
            {**group, "params": [numbers[number] for number in group["params"]]} for group in state["param_groups"]
        ],
    }
