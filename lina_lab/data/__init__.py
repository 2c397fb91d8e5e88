"""What is learned from. Data sets are entries of `lina_lab.config.datasets`; each names its Lightning DataModule."""

from typing import TYPE_CHECKING, cast

from lina_lab.config import TrialConfig
from lina_lab.config.datasets import DATA_SETS

if TYPE_CHECKING:
    from lina_lab.data.modules.base import StepDataModule


def make_data(config: TrialConfig) -> "StepDataModule":
    """The data module of a trial.

    Raises:
        ValueError: the data cannot be read, or does not fit the model.
    """
    return cast("StepDataModule", DATA_SETS[config.data.name].load()(config))
