"""What a user imports from lina_lab."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lina_lab
import lina_lab.model
from lina_lab.config import TrialConfig
from lina_lab.training.trial import run_trial
from tests.model.test_lina import SMALL


@pytest.mark.parametrize("module", [lina_lab, lina_lab.model], ids=lambda module: module.__name__)
def test_every_public_name_can_be_imported(module: object) -> None:
    for name in module.__all__:  # type: ignore[attr-defined]
        assert callable(getattr(module, name))
    assert set(module.MODULES) == set(module.__all__)  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="has no attribute nonsense"):
        module.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_a_saved_model_is_loaded_from_a_path_as_text(tmp_path: Path) -> None:
    model = lina_lab.LINA(SMALL)
    lina_lab.model.save_model(model, tmp_path / "saved")
    loaded = lina_lab.load(str(tmp_path / "saved"))
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_cell_is_loaded_from_its_folder_its_checkpoint_and_its_run(
    tiny: Callable[..., TrialConfig], tmp_path: Path
) -> None:
    cell = tmp_path / "runs/study/0123456789ab"
    cell.mkdir(parents=True)
    run_trial(tiny(), cell)
    (cell / "mlflow_run.txt").write_text("abc\n")
    saved = torch.load(cell / "step-00000004.ckpt", weights_only=True)
    for model, state in (
        (lina_lab.load(cell), "state_dict"),
        (lina_lab.load("runs:/abc", runs=tmp_path / "runs"), "state_dict"),
        (lina_lab.load(cell / "step-00000004.ckpt", "raw"), "current_model_state"),
    ):
        assert not model.training
        assert all(torch.equal(value, saved[state][f"model.{name}"]) for name, value in model.state_dict().items())


def test_nothing_heavy_is_imported_for_the_name_of_the_package() -> None:
    code = "import sys, lina_lab; print([name for name in ('torch', 'pydantic', 'mlflow') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
