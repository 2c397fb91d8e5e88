"""Planted differences are found, with errors that mean what they say."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from lina_lab.analysis.load.runs import StudyRuns
from lina_lab.analysis.stats.paired import (
    block_standard_error,
    comparisons,
    mean_differences,
    paired_differences,
    size_trends,
)
from scipy import stats

Planted = Callable[..., StudyRuns]


def subtraction_is_worse(normalization: str, conv: str, size: int, seed: int) -> float:
    """By 0.03 at size 16 and 0.05 at 32; the convolution takes 0.2 off; each seed moves a variant a little."""
    own = 0.001 * np.sin(seed * 7 + size + len(normalization) + len(conv))
    return (normalization == "subtraction") * (0.01 + 0.02 * size / 16) - 0.2 * (conv == "depthwise") + own


def test_each_axis_is_changed_alone(planted: Planted) -> None:
    found = [(c.axis, c.baseline, c.treatment) for c in comparisons(planted(subtraction_is_worse))]
    assert found == [
        ("normalization", "division, no convolution", "subtraction, no convolution"),
        ("normalization", "division, depthwise", "subtraction, depthwise"),
        ("convolution", "division, no convolution", "division, depthwise"),
        ("convolution", "subtraction, no convolution", "subtraction, depthwise"),
    ]


def test_planted_differences_are_recovered_far_below_the_noise_of_either_loss(planted: Planted) -> None:
    table = mean_differences(paired_differences(planted(subtraction_is_worse)))
    assert len(table) == 4 * 2 * 3
    for row in table.to_dict("records"):
        truth = -0.2 if row["axis"] == "convolution" else 0.01 + 0.02 * row["size"] / 16
        assert row["difference"] == pytest.approx(truth, abs=0.003)
        assert row["seeds"] == 3
        assert row["excludes_zero"]
        assert row["low"] < truth < row["high"] or abs(row["difference"] - truth) < 0.003


def test_only_training_losses_have_a_block_error(planted: Planted) -> None:
    table = paired_differences(planted(subtraction_is_worse))
    train = table["metric"] == "train/loss"
    # Two runs with noise 0.01 each, over 100 steps.
    assert np.allclose(table[train]["block_se"], 0.01 * np.sqrt(2 / 100), rtol=0.6)
    assert table[~train]["block_se"].isna().all()
    assert set(table[train]["points"]) == {100}


def test_where_there_is_no_difference_the_interval_includes_zero(planted: Planted) -> None:
    nothing = planted(lambda normalization, conv, size, seed: 0.01 * np.sin(100 * seed + len(normalization) * size))
    table = mean_differences(paired_differences(nothing))
    normalization = table[(table["axis"] == "normalization") & (table["metric"] == "val/loss_ema")]
    assert not normalization["excludes_zero"].any()


def test_growth_size_trends_is_recovered(planted: Planted) -> None:
    table = size_trends(paired_differences(planted(subtraction_is_worse)), [16, 32])
    row = table[(table["axis"] == "normalization") & (table["metric"] == "train/loss")].iloc[0]
    assert (row["smallest"], row["largest"]) == (16, 32)
    assert row["difference"] == pytest.approx(0.02, abs=0.005)
    assert row["excludes_zero"]


def test_one_seed_gives_no_interval_and_no_verdict(planted: Planted) -> None:
    table = mean_differences(paired_differences(planted(subtraction_is_worse, seeds=1)))
    assert table[["low", "high", "seed_se"]].isna().all().all()
    assert not table["excludes_zero"].any()


def test_a_missing_side_leaves_its_comparison_out(planted: Planted) -> None:
    runs = planted(subtraction_is_worse)
    gone = (runs.history["variant"] == "division, no convolution") & (runs.history["seed"] == 0)
    table = mean_differences(paired_differences(replace(runs, history=runs.history[~gone])))
    without = (table["baseline"] == "division, no convolution") | (table["treatment"] == "division, no convolution")
    assert set(table[without]["seeds"]) == {2}
    assert set(table[~without]["seeds"]) == {3}


def test_block_error_covers_a_correlated_series_where_the_plain_one_does_not() -> None:
    """95% intervals from blocks hold the mean of an AR(1) series nearly as often as they say."""
    rng, hits, plain_hits, tries = np.random.default_rng(0), 0, 0, 400
    quantile = stats.t.ppf(0.975, 19)
    for _ in range(tries):
        noise = rng.normal(size=2000)
        series = np.empty(2000)
        series[0] = noise[0]
        for i in range(1, 2000):
            series[i] = 0.8 * series[i - 1] + noise[i]
        hits += abs(series.mean()) < quantile * block_standard_error(series)
        plain_hits += abs(series.mean()) < 1.96 * series.std(ddof=1) / np.sqrt(len(series))
    assert hits / tries > 0.9
    assert plain_hits / tries < 0.6


def test_too_short_a_series_is_refused() -> None:
    with pytest.raises(ValueError, match="39 values are too few for 20 blocks"):
        block_standard_error(np.zeros(39))
