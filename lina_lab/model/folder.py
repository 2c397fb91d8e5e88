"""A model in a folder: `config.yaml` and `model.safetensors`."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lina_lab.config import LinaConfig, from_stored, to_dict
from lina_lab.model.making import make_model
from lina_lab.records.files import CONFIG_FILE
from lina_lab.records.weights import MODEL_FILE
from lina_lab.util.files import atomic

CONFIG, WEIGHTS = CONFIG_FILE, MODEL_FILE


def not_finite(weights: Mapping[str, Tensor]) -> str:
    """Names of the tensors that hold NaN or infinity, for a sentence; empty where there are none."""
    names = [name for name, value in weights.items() if not value.isfinite().all()]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def save_model(model: Any, folder: Path) -> None:
    """Write configuration and weights; each file is there whole or not at all.

    Raises:
        FileExistsError: the folder holds a model already.
        OSError: the folder cannot be written.
    """
    if (folder / CONFIG).exists() or (folder / WEIGHTS).exists():
        raise FileExistsError(f"{folder} holds a model already")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / CONFIG) as config, atomic(folder / WEIGHTS) as weights:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)
        config.write_text(yaml.safe_dump(to_dict(model.config), sort_keys=False))
        # safetensors writes for the owner alone; a model is for whoever may read the folder.
        shutil.copymode(config, weights)


def load_model(folder: Path) -> Any:
    """The model of any task that `save_model` wrote.

    Raises:
        ValueError: the folder holds no model, or not a whole one.
    """
    try:
        config = from_stored(LinaConfig, yaml.safe_load((folder / CONFIG).read_text()), within="model")
        model = make_model(config)
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, yaml.YAMLError, RuntimeError) as error:
        raise ValueError(f"{folder} does not hold a model: {error}") from error
    return model
