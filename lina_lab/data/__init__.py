"""What is learned from: Lightning DataModules by name."""

from collections.abc import Callable

from lina_lab.config import TrialConfig
from lina_lab.data.modules.base import StepDataModule
from lina_lab.data.modules.digits import DigitsDataModule
from lina_lab.data.modules.latents import LatentsDataModule
from lina_lab.data.modules.shapes import ShapesDataModule
from lina_lab.data.modules.shards import ShardsDataModule
from lina_lab.util.registry import Registry

DATA: Registry[Callable[[TrialConfig], StepDataModule]] = Registry("data.name")
DATA.register("digits")(DigitsDataModule)
DATA.register("latents")(LatentsDataModule)
DATA.register("shards")(ShardsDataModule)
DATA.register("shapes")(ShapesDataModule)

__all__ = [
    "DATA",
    "DigitsDataModule",
    "LatentsDataModule",
    "ShapesDataModule",
    "ShardsDataModule",
    "StepDataModule",
]
