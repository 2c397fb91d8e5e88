"""A downloaded checkpoint of the authors to a model of ours: `python -m lina_lab.model.official convert IN OUT`."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
import yaml
from pydantic.dataclasses import dataclass as checked
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lina_lab.commands.grammar import parse, refuse
from lina_lab.config import CHECKS, to_dict
from lina_lab.model.detect import Found, detect
from lina_lab.model.folder import CONFIG, WEIGHTS, save_model
from lina_lab.model.layout import load_official
from lina_lab.model.lina import LINA

STEM = "diffusion_pytorch_model"
USAGE = "usage: python -m lina_lab.model.official convert IN OUT [model.FIELD=VALUE ...]"


@checked(frozen=True, kw_only=True, config=CHECKS)
class ConvertConfig:
    """What the command takes besides its two folders."""

    model: dict[str, object] | None = None
    """Fields that the weights do not tell, or tell wrong."""


def read_official(folder: Path) -> dict[str, Tensor]:
    """The weights of a downloaded folder: safetensors, or else `.bin`, of which nothing but tensors is unpickled.

    Raises:
        ValueError: there is neither, or the file is damaged or holds anything else.
    """
    safe, pickled = folder / f"{STEM}.safetensors", folder / f"{STEM}.bin"
    try:
        if safe.exists():
            return load_file(safe)
        if not pickled.exists():
            raise ValueError(f"{folder} has neither {safe.name} nor {pickled.name}")
        loaded = torch.load(pickled, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the weights in {folder} cannot be read: {reason}") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"{pickled} does not hold names and tensors")
    return loaded


def convert(source: Path, target: Path, given: Mapping[str, object] | None = None) -> Found:
    """Turn a downloaded folder into one of ours, see `lina_lab.model.folder`.

    Args:
        source: folder with the authors' weights.
        target: where to write.
        given: fields of the configuration that the weights do not tell.

    Raises:
        ValueError: the weights cannot be read, or do not fit the configuration that they were taken for.
        FileExistsError: `target` holds a model already.
        OSError: `target` cannot be written.
    """
    if (target / CONFIG).exists() or (target / WEIGHTS).exists():
        raise FileExistsError(f"{target} holds a model already")
    weights = read_official(source)
    found = detect(weights, given)
    model = LINA(found.config)
    load_official(model, weights)
    save_model(model, target)
    return found


def main(arguments: Sequence[str]) -> int:
    """Run the command; 0, or 2 with one sentence where it cannot be done."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0
    if len(arguments) < 3 or arguments[0] != "convert":
        print(USAGE, file=sys.stderr)
        return 2
    source, target = Path(arguments[1]), Path(arguments[2])
    try:
        given = parse(ConvertConfig, arguments[3:]).model
        found = convert(source, target, given)
    except (ValueError, OSError) as error:
        return refuse(error)
    print(yaml.safe_dump(to_dict(found.config), sort_keys=False), end="")
    for assumption in found.assumptions:
        print(f"assumed, not in the weights: {assumption}")
    print(f"written: {target / CONFIG}, {target / WEIGHTS}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
