"""The benchmark for a GPU, at tiny sizes on a CPU."""

import os
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks import gpu

TINY = ["device=cpu", "tokens=[16,64]", "width=32", "heads=2", "depth=2", "side=8", "rounds=1", "size=64", "steps=1"]


def test_it_writes_tables_and_a_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.COMMAND.main([*TINY, f"out={tmp_path}"]) == 0, capsys.readouterr()
    ending = f"cpu-torch{torch.__version__.split('+')[0]}"
    found = pd.read_csv(tmp_path / f"gpu-attention-{ending}.csv")
    assert set(found["form"]) == {"floor", "kernels", "eager", "softmax"}
    assert len(found) == 3 * 2 * 2 * 4
    assert (found[found["form"] == "softmax"]["times_softmax"] == 1).all()
    assert (found["roofline_share"] > 0).all()
    whole = pd.read_csv(tmp_path / f"gpu-whole-{ending}.csv")
    assert set(whole["what"]) == {"training step", "image"}
    assert (tmp_path / f"gpu-attention-{ending}.png").stat().st_size > 5000
    assert "LINA_KERNELS" not in os.environ


def test_wrong_numbers_end_it_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "TOLERANCES", dict.fromkeys(gpu.DTYPES, 0.0))
    assert gpu.COMMAND.main([*TINY, f"out={tmp_path}"]) == 1
    assert not list(tmp_path.glob("gpu-attention*"))


def test_the_least_time_of_softmax_grows_with_the_square_of_the_tokens() -> None:
    config = gpu.GpuBenchConfig(device="cpu", width=1536)
    times = {form: [gpu.least_seconds(form, config, n, torch.bfloat16, (8e14, 3e12)) for n in (5120, 10240)]
             for form in ("floor", "kernels", "softmax")}  # fmt: skip
    assert times["floor"] == pytest.approx([121e-6, 242e-6], rel=0.01)
    assert times["kernels"][1] == pytest.approx(2 * times["kernels"][0])
    softmax = [value - layers for value, layers in zip(times["softmax"], times["floor"], strict=True)]
    assert softmax[1] == pytest.approx(4 * softmax[0])
