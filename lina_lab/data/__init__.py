"""What is learned from: Lightning DataModules by name."""

from collections.abc import Callable

import lightning as L

from lina_lab.config import TrialConfig
from lina_lab.data.digits import DigitsDataModule
from lina_lab.data.latents import LatentsDataModule
from lina_lab.registry import Registry

DATA: Registry[Callable[[TrialConfig], L.LightningDataModule]] = Registry("data.name")
DATA.register("digits")(DigitsDataModule)
DATA.register("latents")(LatentsDataModule)

__all__ = ["DATA", "DigitsDataModule", "LatentsDataModule"]
