"""What tests of trials share."""

from pathlib import Path

import pytest
import torch

from lina_lab.config import TrialConfig, from_dict
from lina_lab.training.trial import run_trial
from tests.conftest import TINY


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished trial of 64 images."""
    folder = tmp_path_factory.mktemp("runs") / "study" / "source"
    folder.mkdir(parents=True)
    torch.set_num_threads(1)
    run_trial(from_dict(TrialConfig, TINY), folder)
    return folder
