"""The names that a user imports from the analysis."""

import subprocess
import sys

import pytest

from lina_lab import analysis


def test_every_public_name_is_there_and_belongs_to_the_analysis() -> None:
    assert set(analysis.__all__) == {name for names in analysis._MODULES.values() for name in names}
    for name in analysis.__all__:
        assert getattr(analysis, name).__module__.startswith("lina_lab.analysis.")
    assert set(analysis.__all__) <= set(dir(analysis))
    with pytest.raises(AttributeError, match="no attribute 'Law'"):
        analysis.Law  # noqa: B018


def test_importing_the_package_imports_no_heavy_library() -> None:
    heavy = ("pandas", "mlflow", "matplotlib", "torch")
    code = f"import sys, lina_lab.analysis; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
