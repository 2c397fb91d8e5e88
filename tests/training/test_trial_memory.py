"""Memory of a trial: its peak is its own, and nothing of it stays when it has ended."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from lina_lab.config import ResourcesConfig, TrialConfig
from lina_lab.launch.local import in_this_process
from lina_lab.training import trial
from lina_lab.training.memory import peak_memory_mib
from lina_lab.training.trial import run_trial

Tiny = Callable[..., TrialConfig]


@pytest.mark.parametrize("fails", [False, True])
def test_model_and_data_are_freed_when_the_next_cell_begins(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Whenever Python itself would free them, and though the cell failed: a worker trains hundreds of cells."""
    left: list[weakref.ref[Any]] = []

    def kept(maker: Callable[..., Any]) -> Callable[..., Any]:
        def make(*arguments: Any, **options: Any) -> Any:
            made = maker(*arguments, **options)
            left.append(weakref.ref(made))
            return made

        return make

    def fault(progress: Any) -> None:
        raise ArithmeticError("planted")

    def alive(progress: Any) -> None:
        begun.append([one() is not None for one in left])

    begun: list[list[bool]] = []
    monkeypatch.setattr(trial, "make_data", kept(trial.make_data))
    monkeypatch.setattr(trial.L, "Trainer", kept(trial.L.Trainer))
    gc.disable()
    try:
        with in_this_process(ResourcesConfig()) as launch:
            for number, report in enumerate([fault if fails else lambda progress: None, alive]):
                folder = tmp_path / str(number)
                folder.mkdir()
                with pytest.raises(ArithmeticError) if report is fault else nullcontext():
                    launch(tiny(), folder, tracking=None, report=report)
        assert begun[0] == [False, False, True, True]
    finally:
        gc.unfreeze()
        gc.enable()


def test_peak_memory_is_of_this_trial_alone(tiny: Tiny, tmp_path: Path) -> None:
    """Not of what the process did before, as a worker does with cell after cell."""
    held = b"x" * 2**30
    before = peak_memory_mib()
    del held
    assert peak_memory_mib() > before - 64
    assert 100 < run_trial(tiny(), tmp_path).peak_memory_mib < before - 512


def test_peak_memory_is_of_this_process_alone() -> None:
    """Not of the one that started it, however much that one has."""
    held = b"x" * (600 * 2**20)
    code = "from lina_lab.training.memory import peak_memory_mib; print(peak_memory_mib())"
    found = float(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert peak_memory_mib() > 600
    assert found < peak_memory_mib() - len(held) / 2**20 / 2
