"""The benchmark measures what it says it does; how fast a machine is, no test asks."""

import math
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks import attention as bench
from benchmarks import attention_figures as pictures
from benchmarks import rate_transfer
from lina_lab.config import AttentionConfig, TrialConfig
from lina_lab.model import Attention
from tests.conftest import relative_error

SMALL = {"256px": ((2, 20, 16), 2, (4, 4), 4)}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "CASES", SMALL)
    monkeypatch.setattr(bench, "WIDTH", 24)
    monkeypatch.setattr(bench, "SWEEP", [4, 8, 64])
    threads = torch.get_num_threads()
    monkeypatch.setattr("torch.set_num_threads", lambda n: None)
    assert torch.get_num_threads() == threads


def test_naive_is_the_same_attention(generator: torch.Generator) -> None:
    module = Attention(16, 2, AttentionConfig(conv_kernel=3), (4, 4), 4)
    for parameter in module.parameters():
        torch.nn.init.uniform_(parameter, -1, 1.5, generator=generator)
    x = torch.randn(2, 20, 16, generator=generator)
    with torch.no_grad():
        assert relative_error(bench.naive(module, x), module(x)) < 1e-5


def test_memory_is_what_a_run_allocates() -> None:
    kept = []

    def run() -> None:
        kept.append(torch.ones(1000, 256))
        kept.append(torch.ones(500, 256))
        kept.clear()
        torch.ones(100, 256)

    assert bench.peak_bytes(run, "cpu") == 1500 * 256 * 4


def test_memory_grows_linearly_with_tokens() -> None:
    def peak(side: int) -> int:
        module = Attention(32, 2, AttentionConfig(), (side, side), 0)
        x = torch.randn(1, side * side, 32, requires_grad=True)
        return bench.peak_bytes(bench.step(module, module, x, "float32"), "cpu")

    assert peak(64) / peak(16) == pytest.approx(16, rel=0.1)


def test_variants_take_turns_and_the_first_run_is_not_counted() -> None:
    order: list[str] = []
    steps = {
        "a": lambda: order.append("a"),
        "b": lambda: (order.append("b"), time.sleep(0.05 if order.count("b") == 1 else 0.001)),
    }
    times = bench.timed(steps, seconds=0, least=3)  # type: ignore[arg-type]
    assert order == ["a", "b"] * 4
    assert [len(values) for values in times.values()] == [3, 3]
    assert max(times["b"]) < 0.05


def test_the_commands_write_tables_and_pictures(
    quick: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.COMMAND.main([f"out={tmp_path}", "seconds=0", "device=cpu"]) == 0
    version = torch.__version__.split("+")[0]
    for dtype in ("float32", "bfloat16"):
        table = pd.read_csv(tmp_path / f"attention-cpu-{dtype}-torch{version}.csv")
        assert list(table["variant"]) == ["floor", "linear", "naive", "softmax"]
        assert (table["median_ms"] > 0).all()
        assert table["times_floor"][0] == 1
    sweep = pd.read_csv(tmp_path / f"tokens-cpu-float32-torch{version}.csv")
    assert sorted(set(sweep["tokens"])) == [4, 8, 64]
    assert pictures.COMMAND.main([f"folder={tmp_path}"]) == 0
    assert (tmp_path / f"tokens-cpu-float32-torch{version}.png").stat().st_size > 5000
    assert "256px   linear" in capsys.readouterr().out


def test_crossing_is_where_the_lines_meet() -> None:
    tokens = [64, 256, 1024, 4096]
    quadratic, linear = [t**2 / 500 for t in tokens], [float(t) for t in tokens]
    found = pictures.crossing(pd.Index(tokens), pd.Series(quadratic, index=tokens), pd.Series(linear, index=tokens))
    assert found == pytest.approx((500, 500))
    assert pictures.crossing(tokens, linear, [2 * t for t in tokens]) is None
    assert pictures.crossing(tokens, linear, [t / 2 for t in tokens]) is None


@pytest.mark.parametrize(
    ("main", "arguments", "sentence"),
    [
        (bench.COMMAND.main, ["dtypes=[float8]"], "dtypes"),
        (bench.COMMAND.main, ["device=tpu"], "device='tpu'"),
        (bench.COMMAND.main, ["thread=2"], "thread is not a field"),
        (
            pictures.COMMAND.main,
            ["folder=/nonexistent"],
            "has no tokens-*.csv and no ranks.csv: run `python benchmarks/attention.py`",
        ),
    ],
)
def test_wrong_arguments_are_one_sentence(
    main: object, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2  # type: ignore[operator]
    printed = capsys.readouterr().err
    assert sentence in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("best", [-2.7, 0.2, 3.4])
def test_the_search_for_a_rate_walks_to_the_minimum_of_its_parabola(
    monkeypatch: pytest.MonkeyPatch, best: float
) -> None:
    """From wherever it starts; the loss of a trial is planted."""
    config = rate_transfer.RateTransferConfig(start=0.01, seeds=2)

    def planted(trial: TrialConfig) -> float:
        return 0.5 + 0.1 * (math.log2(trial.optimizer.lr / 0.01) - best) ** 2 + 0.01 * trial.seed

    monkeypatch.setattr(rate_transfer, "loss", planted)
    losses = rate_transfer.losses_around(config, "standard", 64, 0)
    assert rate_transfer.best_exponent(losses) == pytest.approx(best)
    monkeypatch.setattr(rate_transfer, "loss", lambda trial: -trial.optimizer.lr)
    with pytest.raises(ValueError, match=r"standard, width 64: no best rate within 2\^8 of start=0.01"):
        rate_transfer.losses_around(config, "standard", 64, 0)


def test_a_wider_trial_is_under_mup_with_the_first_width_as_its_base() -> None:
    config = rate_transfer.RateTransferConfig()
    base, standard, wide = (
        rate_transfer.trial(config, parametrization, width, 0.01, 0).model
        for parametrization, width in (("mup", 32), ("standard", 128), ("mup", 128))
    )
    assert (base.parametrization, standard.parametrization) == ("standard", "standard")
    assert (wide.parametrization, wide.base_dim, wide.num_heads) == ("mup", 32, 8)
