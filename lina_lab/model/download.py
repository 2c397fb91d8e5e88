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

from lina_lab.util.errors import first_line
from lina_lab.util.files import read_json

STEM = "diffusion_pytorch_model"
ENDINGS = (".safetensors", ".bin")
"""Endings of weights; the first is preferred, since nothing in it is unpickled."""
OTHER_ENDINGS = (".pt", ".pth", ".ckpt")
"""Endings of other pickled weights, which are read if the file itself is named."""
INDEX = ".index.json"
PIPELINE_PART = "transformer"
"""Folder of the model within a pipeline of diffusers."""
SETS = ("state_dict", "model")
"""Keys under which a training script saves the weights of its model."""
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
    return _unprefixed(_read(_file(source) if source.is_dir() else source), source)


def _file(folder: Path) -> Path:
    """The one file in a folder that holds the weights or their index."""
    names = sorted(file.name for file in folder.iterdir())
    for ending in ENDINGS:
        for name in (f"{STEM}{ending}", f"{STEM}{ending}{INDEX}"):
            if name in names:
                return folder / name
    for ending in ENDINGS:
        # diffusers wrote a variant's index as `.safetensors.index.fp16.json` before `.safetensors.fp16.index.json`.
        form = rf"{STEM}(\.[^.]+{ending}|{ending}\.[^.]+\.index\.json|{ending}\.index\.[^.]+\.json)"
        variants = [name for name in names if re.fullmatch(form, name)]
        if len(variants) > 1:
            raise ValueError(f"{folder} holds several variants of the weights: give one file of {', '.join(variants)}")
        if variants:
            return folder / variants[0]
    if (folder / PIPELINE_PART).is_dir():
        return _file(folder / PIPELINE_PART)
    missing = f"{folder} has neither {STEM}{ENDINGS[0]} nor {STEM}{ENDINGS[1]}"
    if parts := [name for name in names if re.search(r"-\d+-of-\d+\.", name)]:
        raise ValueError(f"{missing}, and parts such as {parts[0]} without their index: download the file *{INDEX} too")
    if others := [name for name in names if name.endswith((*ENDINGS, *OTHER_ENDINGS))]:
        raise ValueError(f"{missing}: if {others[0]} holds the weights, give that file")
    raise ValueError(f"{missing}, nor an index of their parts, nor a folder {PIPELINE_PART}")


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
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{index} is not an index of weights: it has no weight_map")
    weights: Weights = {}
    for part in sorted(set(map(str, places.values()))):
        if Path(part).name != part or not part.endswith(ENDINGS):
            raise ValueError(f"{index} names {part!r}, which is not a file of weights beside it")
        if not (index.parent / part).exists():
            raise ValueError(f"{index.parent} lacks {part}, a part of the weights that {index.name} names: download it")
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
