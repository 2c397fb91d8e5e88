"""What is learned from. Data sets are entries of `lina_lab.config.datasets`; each names its Lightning DataModule."""

from typing import cast

from lina_lab.config import TrialConfig
from lina_lab.config.datasets import DATA_SETS
from lina_lab.data.modules.base import StepDataModule

__all__ = ["StepDataModule", "make_data"]


def make_data(config: TrialConfig) -> StepDataModule:
    """The data module of a trial.

    Raises:
        ValueError: the data cannot be read, or does not fit the model.
    """
    return cast(StepDataModule, DATA_SETS[config.data.name].load()(config))
