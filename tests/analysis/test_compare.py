"""Planted differences are found, with errors that mean what they say."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from lina_lab.analysis.load.runs import StudyRuns
from lina_lab.analysis.stats.noise import TOO_SHORT
from lina_lab.analysis.stats.paired import (
    SAME_IMAGES,
    comparisons,
    mean_differences,
    paired_differences,
    size_trends,
)

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


def test_a_training_loss_with_too_few_steps_has_no_block_error_but_a_reason(planted: Planted) -> None:
    table = paired_differences(planted(subtraction_is_worse), tail=0.1)
    train = table["metric"] == "train/loss"
    assert set(table[train]["points"]) == {20}
    assert table["block_se"].isna().all()
    assert set(table[train]["block_reason"]) == {TOO_SHORT}
    assert set(table[~train]["block_reason"]) == {SAME_IMAGES}


def test_seeds_that_agree_exactly_are_no_certain_result(planted: Planted) -> None:
    """An interval of no width would claim to know what another seed gives."""
    table = mean_differences(paired_differences(planted(lambda name, *_: 0.01 * (name == "division"))))
    equal = table[(table["axis"] == "normalization") & (table["metric"] == "val/loss_ema")]
    assert np.allclose(equal["difference"], -0.01)
    assert equal[["low", "high", "seed_se", "p"]].isna().all().all()
    assert not equal["excludes_zero"].any()


def test_a_difference_that_shrinks_with_the_loss_keeps_its_ratio(planted: Planted) -> None:
    """Both losses halve from size 16 to 32, and subtraction stays 10% above division."""

    def effect(normalization: str, conv: str, size: int, seed: int) -> float:
        loss = (2 if size == 16 else 1) * (1.1 if normalization == "subtraction" else 1.0)
        return loss * (1 + 0.001 * np.sin(seed * 7 + size + len(normalization))) - 2

    differences = paired_differences(planted(effect))
    chosen = differences[(differences["axis"] == "normalization") & (differences["metric"] == "val/loss_ema")]
    absolute, logarithmic = (size_trends(chosen, [16, 32], column) for column in ("difference", "log_ratio"))
    assert (absolute["high"] < 0).all()
    assert not logarithmic["excludes_zero"].any()
