"""The threads of a trial are those of its study, and not those of the machine or of the shell."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from lina_lab.config import ResourcesConfig
from lina_lab.training.module import LinaModule
from lina_lab.training.threads import fixed_threads
from lina_lab.training.trial import run_trial


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize("before", [1, 2, 5])
def test_a_trial_computes_with_the_study_s_threads_whatever_the_process_has(
    before: int, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = LinaModule.training_step

    def step(self: LinaModule, *arguments: Any) -> Any:
        seen.append(torch.get_num_threads())
        return original(self, *arguments)

    monkeypatch.setattr(LinaModule, "training_step", step)
    torch.set_num_threads(before)
    result = run_trial(tiny(), tmp_path, resources=ResourcesConfig(threads=3))
    assert set(seen) == {result.threads} == {3}
    assert torch.get_num_threads() == before


def test_the_linear_algebra_of_numpy_and_scipy_has_these_threads_too() -> None:
    np.linalg.norm(np.eye(2))
    with fixed_threads(1):
        assert blas_threads() == {1}
    with fixed_threads(2):
        assert blas_threads() == {2}
