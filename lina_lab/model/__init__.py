"""What is studied: LINA, in plain PyTorch."""

from lina_lab.model.attention import Attention
from lina_lab.model.folder import load_model, save_model
from lina_lab.model.initialization import initialize
from lina_lab.model.layout import load_official, save_official
from lina_lab.model.lina import LINA, LossDraws, draw_loss, draw_step
from lina_lab.model.resize import resize

__all__ = [
    "LINA",
    "Attention",
    "LossDraws",
    "draw_loss",
    "draw_step",
    "initialize",
    "load_model",
    "load_official",
    "resize",
    "save_model",
    "save_official",
]
