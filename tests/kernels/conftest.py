"""What the kernels' tests share: they run on a GPU if there is one, and in Triton's interpreter otherwise."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _products_of_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.8's interpreter multiplies the bits of bfloat16 as integers; here it multiplies the numbers."""
    from triton.runtime import interpreter

    inner = interpreter.InterpreterBuilder.create_dot

    def widened(x: Any) -> Any:
        if x.dtype.scalar != triton.language.bfloat16:
            return x
        numbers = (x.data.astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(numbers, triton.language.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return inner(self, widened(a), widened(b), *rest)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment asks for kernels."""
    monkeypatch.setenv("LINA_KERNELS", "1")


@pytest.fixture
def chosen(wanted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model chooses the kernels, on a CPU too."""
    monkeypatch.setattr("lina_lab.kernels._interpreted", lambda: True)


def largest_error(ours: Tensor, exact: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((ours.detach().double().cpu() - exact.detach()).abs().max() / exact.detach().abs().max())
