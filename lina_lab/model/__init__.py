"""What is studied: LINA, in plain PyTorch."""

from lina_lab.model.attention import Attention
from lina_lab.model.folder import load_model, save_model
from lina_lab.model.initialization import initialize
from lina_lab.model.layout import load_official, save_official
from lina_lab.model.lina import LINA, LossInputs, sample_loss_inputs, sample_step_inputs
from lina_lab.model.resize import resize

__all__ = [
    "LINA",
    "Attention",
    "LossInputs",
    "initialize",
    "load_model",
    "load_official",
    "resize",
    "sample_loss_inputs",
    "sample_step_inputs",
    "save_model",
    "save_official",
]
