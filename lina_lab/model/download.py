"""Read downloaded weights in the forms that diffusers and PyTorch write: whole or in parts, wrapped or not.

Where two files or two sets of weights could be meant, none is chosen: the message says what to give instead.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lina_lab.records.weights import ENDINGS, official_file, places_of_parts
from lina_lab.util.errors import first_line

SETS = ("state_dict", "model", "ema", "model_ema")
"""Keys under which a training script saves the weights of its model, or their average, where it saves one of them."""
TORCH_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What `torch.compile`, FSDP and activation checkpointing add to the names of parameters, at any depth."""
REPLICA = "module."
"""What `DataParallel` and `DistributedDataParallel` put before all names."""

Weights = dict[str, Tensor]


def read_official(source: Path) -> Weights:
    """Read downloaded weights: safetensors, or else pickled ones, from which only tensors are unpickled.

    Args:
        source: a folder with weights of diffusers, whole, in parts with an index, or of one variant such as fp16; the
            folder of a pipeline that has such a folder; or the file of the weights or of their index.

    Returns:
        The tensors, by the names that the model itself gives them.

    Raises:
        ValueError: there are no weights or several, or a file is missing, damaged or holds anything else.
    """
    return _unprefixed(_read(official_file(source) if source.is_dir() else source), source)


def _read(file: Path) -> Weights:
    if file.suffix == ".json":
        return _read_parts(file)
    try:
        if file.suffix == ENDINGS[0]:
            return load_file(file)
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"the weights in {file} cannot be read: {first_line(error)}") from error
    return _unwrapped(loaded, file)


def _read_parts(index: Path) -> Weights:
    """Join the parts that an index names; each tensor must lie in the part that the index names for it."""
    places, weights = places_of_parts(index), Weights()
    for part in sorted(set(places.values())):
        found, listed = _read(index.parent / part), {name for name, place in places.items() if place == part}
        if differing := sorted(listed ^ set(found)):
            raise ValueError(
                f"{index.parent / part} and {index.name} disagree on {', '.join(differing[:3])}: they are not of the "
                "same download"
            )
        weights |= found
    return weights


def _unwrapped(loaded: Any, file: Path) -> Weights:
    """The names and tensors of a pickled file, which may lie under the key of a training script."""
    if _is_weights(loaded):
        return dict(loaded)
    found = [str(key) for key, value in loaded.items() if _is_weights(value)] if isinstance(loaded, Mapping) else []
    if not found:
        raise ValueError(f"{file} does not hold names and tensors")
    if len(found) > 1 or found[0] not in SETS:
        raise ValueError(
            f"{file} holds weights under {', '.join(found)}, and which of them are the model's is not certain: save "
            "the dictionary of names and tensors alone"
        )
    return dict(loaded[found[0]])


def _is_weights(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def _unprefixed(weights: Weights, source: Path) -> Weights:
    """The weights without what wrappers of PyTorch add to their names."""
    names = {name: TORCH_WRAPPERS.sub("", name) for name in weights}
    while names and all(name.startswith(REPLICA) for name in names.values()):
        names = {name: bare.removeprefix(REPLICA) for name, bare in names.items()}
    if len(set(names.values())) < len(names):
        raise ValueError(f"{source} holds weights of the same name with and without a wrapper's prefix")
    return {names[name]: value for name, value in weights.items()}
