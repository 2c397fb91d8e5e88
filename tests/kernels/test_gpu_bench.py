"""The benchmark for a GPU, at tiny sizes on a CPU."""

import os
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks import gpu
from benchmarks.common import softmax

TINY = ["device=cpu", "tokens=[16,80]", "width=32", "heads=2", "depth=2", "side=8", "rounds=1", "size=64", "steps=1"]


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


def test_a_way_of_softmax_that_is_not_installed_is_said_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one that does not take the module's heads. PyTorch's register of FlashAttentions is real."""
    from torch.nn import attention

    def missing() -> None:
        raise ImportError("No module named 'flash_attention_of_tomorrow'")

    attention.register_flash_attention_impl("FA9", register_fn=missing)
    ways = softmax.ways_of_softmax()
    assert {"cudnn", "flash", "FA3", "FA9"} <= ways.keys()
    config = gpu.GpuBenchConfig(device="cpu", width=32, heads=2)
    module = gpu.module(config, 64, gpu.SOFTMAX, torch.float32)
    assert not softmax.runs(module, "FA9", ways["FA9"])
    assert not softmax.runs(module, "cudnn", ways["cudnn"])
    assert softmax.runs(module, "flash", ways["flash"])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "FA9: No module named 'flash_attention_of_tomorrow'"
    assert said[1].startswith("cudnn: ")


@pytest.mark.parametrize(("tokens", "parts"), [(320, (64, 256)), (5120, (1024, 4096)), (1024, (0, 1024))])
def test_the_paper_s_decoders_have_a_condition(tokens: int, parts: tuple[int, int]) -> None:
    assert gpu.condition_and_image(tokens) == parts


def test_tokens_that_fill_no_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tokens=96 is neither a power of two, which fills a grid, nor five times"):
        gpu.GpuBenchConfig(device="cpu", tokens=(64, 96))


def test_the_least_time_of_softmax_grows_with_the_square_of_the_tokens() -> None:
    config = gpu.GpuBenchConfig(device="cpu", width=1536)
    times = {form: [gpu.least_seconds(form, config, n, torch.bfloat16, (8e14, 3e12)) for n in (5120, 10240)]
             for form in ("floor", "kernels", "softmax")}  # fmt: skip
    assert times["floor"] == pytest.approx([121e-6, 242e-6], rel=0.01)
    assert times["kernels"][1] == pytest.approx(2 * times["kernels"][0])
    core = [value - layers for value, layers in zip(times["softmax"], times["floor"], strict=True)]
    assert core[1] == pytest.approx(4 * core[0])
