"""Read a checkpoint that the authors published, and convert it to a model folder of ours (`lina convert`)."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lina_lab.model.detect import Found, detect
from lina_lab.model.folder import CONFIG, WEIGHTS, not_finite, save_model
from lina_lab.model.layout import load_official
from lina_lab.model.lina import LINA
from lina_lab.util.errors import first_line

STEM = "diffusion_pytorch_model"


def read_official(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a downloaded folder: safetensors, or else `.bin`, from which only tensors are unpickled.

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
        raise ValueError(f"the weights in {folder} cannot be read: {first_line(error)}") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"{pickled} does not hold names and tensors")
    return loaded


def convert(source: Path, target: Path, known: Mapping[str, object] | None = None) -> Found:
    """Convert a downloaded folder to a model folder of ours, see `lina_lab.model.folder`.

    Args:
        source: folder with the authors' weights.
        target: where to write.
        known: fields of the configuration that do not follow from the weights.

    Raises:
        ValueError: the weights cannot be read, are not all numbers, or do not fit the configuration that was detected.
        FileExistsError: `target` holds a model already.
        OSError: `target` cannot be written.
    """
    if (target / CONFIG).exists() or (target / WEIGHTS).exists():
        raise FileExistsError(f"{target} holds a model already")
    weights = read_official(source)
    if broken := not_finite(weights):
        raise ValueError(f"the weights in {source} are not finite ({broken}): the download or the training is damaged")
    found = detect(weights, known)
    model = LINA(found.config)
    load_official(model, weights)
    save_model(model, target)
    return found
