"""A training process keeps the memory of its tensors, and gives it back before the next trial."""

import subprocess
import sys

import pytest

PREPARE = """
import resource, torch
from lina_lab.training.memory import forget_peak_memory, keep_freed_memory, peak_memory_mib
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**22)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the C library of Linux")


def printed(code: str) -> list[float]:
    command = [sys.executable, "-c", PREPARE + code]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [float(word) for word in output.split()]


def test_memory_of_tensors_is_not_asked_for_again() -> None:
    by_default, kept = printed("print(faults()); keep_freed_memory(); faults(); print(faults())")
    # 20 tensors of 16 MiB are 81,920 pages.
    assert kept < 100 < by_default


def test_what_an_earlier_trial_left_is_given_back() -> None:
    code = """
keep_freed_memory()
held = [torch.ones(2**22) for _ in range(32)]
del held
before = peak_memory_mib()
keep_freed_memory()
forget_peak_memory()
print(before, peak_memory_mib())
"""
    before, after = printed(code)
    assert after < before - 400
