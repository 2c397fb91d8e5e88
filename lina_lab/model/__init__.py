"""What is studied: LINA, in plain PyTorch. Names are imported when they are first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lina_lab.model.attention import Attention
    from lina_lab.model.folder import load_model, save_model
    from lina_lab.model.initialization import initialize
    from lina_lab.model.inputs import LossInputs, sample_loss_inputs, sample_step_inputs
    from lina_lab.model.layout import load_official, save_official
    from lina_lab.model.lina import LINA
    from lina_lab.model.making import make_model

__all__ = [
    "LINA",
    "Attention",
    "LossInputs",
    "initialize",
    "load_model",
    "load_official",
    "make_model",
    "sample_loss_inputs",
    "sample_step_inputs",
    "save_model",
    "save_official",
]
MODULES = {
    "Attention": "attention",
    "LINA": "lina",
    "LossInputs": "inputs",
    "initialize": "initialization",
    "load_model": "folder",
    "load_official": "layout",
    "make_model": "making",
    "sample_loss_inputs": "inputs",
    "sample_step_inputs": "inputs",
    "save_model": "folder",
    "save_official": "layout",
}
"""Public name -> module of this package; never of the same name, which would hide it."""


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
