"""What a user imports from lina_lab."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lina_lab
import lina_lab.model
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


def test_nothing_heavy_is_imported_for_the_name_of_the_package() -> None:
    code = "import sys, lina_lab; print([name for name in ('torch', 'pydantic', 'mlflow') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
