"""The primary comparison is judged as the study declares it; everything else is one family."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lina_lab.analysis.load.runs import StudyRuns
from lina_lab.analysis.stats import exploratory as family
from lina_lab.analysis.stats import verdicts
from lina_lab.analysis.stats.exploratory import Kind, exploratory
from lina_lab.analysis.stats.primary_interval import Method
from lina_lab.analysis.stats.tuned import choices, tuned_rates
from lina_lab.analysis.stats.verdicts import divergences, primary_verdict
from scipy import stats

from lina_lab.config import StudyConfig, from_dict
from lina_lab.decisions.moderated import LONGEST, moderated_interval
from lina_lab.decisions.sequential import mean_interval, sequential_interval
from lina_lab.decisions.verdicts import Outcome

from .conftest import STUDY

Planted = Callable[..., StudyRuns]
PRIMARY = {"axis": "normalization", "treatment": "subtraction", "baseline": "division", "at": {"convolution": "none"}}
DIVISION, SUBTRACTION = "division, no convolution", "subtraction, no convolution"
TUNED = {"tune": {"optimizer.lr": [0.001, 0.002, 0.004, 0.008]}, "tuning": {"seeds": [1000, 1001]}}


def effect(normalization: str, conv: str, size: int, seed: int) -> float:
    """Subtraction is higher by 0.03 at size 16 and 0.05 at 32; each seed moves a variant a little."""
    own = 0.001 * np.sin(seed * 7 + size + len(normalization) + len(conv))
    return (normalization == "subtraction") * (0.01 + 0.02 * size / 16) - 0.2 * (conv == "depthwise") + own


def declared(runs: StudyRuns, primary: dict[str, Any] | None = None, **fields: Any) -> StudyRuns:
    """The same runs of a study that declares its primary comparison."""
    return replace(runs, study=from_dict(StudyConfig, {**STUDY, "primary": {**PRIMARY, **(primary or {})}, **fields}))


def judged(runs: StudyRuns) -> verdicts.PrimaryVerdict:
    verdict = primary_verdict(runs)
    assert verdict is not None
    return verdict


def with_losses(runs: StudyRuns, differences: dict[int, float], size: int = 32) -> StudyRuns:
    """The same runs with the difference subtraction - division of each seed at a size."""
    cells = runs.cells.copy()
    for seed, difference in differences.items():
        mine = (cells["seed"] == seed) & (cells["size"] == size)
        cells.loc[mine & (cells["variant"] == DIVISION), "val/loss_ema"] = 1.0
        cells.loc[mine & (cells["variant"] == SUBTRACTION), "val/loss_ema"] = 1.0 + difference
    return replace(runs, cells=cells)


def test_a_study_without_a_primary_comparison_has_no_verdict(planted: Planted) -> None:
    assert primary_verdict(planted(effect)) is None


def test_a_difference_is_judged_at_the_largest_size_by_student_t(planted: Planted) -> None:
    verdict = judged(declared(planted(effect, seeds=6)))
    values = list(verdict.values.values())
    test = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (verdict.label, verdict.sizes, verdict.metric) == (
        "subtraction vs. division (no convolution)",
        (32,),
        "val/loss_ema",
    )
    assert (verdict.treatment, verdict.baseline) == (SUBTRACTION, DIVISION)
    assert verdict.method is Method.STUDENT
    assert verdict.seeds == 6
    assert verdict.interval.value == pytest.approx(0.05, abs=0.002)
    assert (verdict.interval.low, verdict.interval.high) == pytest.approx((test.low, test.high))
    assert verdict.outcome is Outcome.HIGHER
    assert verdict.deviation == pytest.approx(np.std(values, ddof=1))
    assert verdict.resolvable < 0.05
    assert verdict.seeds_needed == 2


def test_a_growth_is_the_largest_size_less_the_smallest(planted: Planted) -> None:
    verdict = judged(declared(planted(effect, seeds=6), {"quantity": "growth"}))
    assert verdict.sizes == (16, 32)
    assert verdict.interval.value == pytest.approx(0.02, abs=0.002)
    assert (verdict.treatment, verdict.baseline) == (SUBTRACTION, DIVISION)


def test_a_small_difference_within_the_margin_is_equivalent(planted: Planted) -> None:
    runs = with_losses(planted(effect, seeds=6), dict(enumerate([0.002, -0.001, 0.001, -0.002, 0.001, 0.0])))
    assert judged(declared(runs, {"margin": 0.01})).outcome is Outcome.EQUIVALENT
    assert judged(declared(runs, {"margin": 0.0001})).outcome is Outcome.UNDECIDED
    assert judged(declared(runs)).outcome is Outcome.UNDECIDED


def test_a_study_that_adds_seeds_is_judged_for_all_its_looks(planted: Planted) -> None:
    fields = {"seeds": [0, 1, 2, 3], "until": {"primary": "resolved", "max_seeds": 10, "step": 2}}
    differences = [0.03, 0.01, 0.02, 0.04, 0.02, 0.03]
    verdict = judged(declared(with_losses(planted(effect, seeds=6), dict(enumerate(differences))), **fields))
    expected = sequential_interval(differences, (4, 6, 8, 10))
    assert verdict.method is Method.SEQUENTIAL
    assert (verdict.looks, verdict.max_seeds) == (2, 10)
    assert (verdict.interval.low, verdict.interval.high) == pytest.approx((expected.low, expected.high))
    assert verdict.interval.low < mean_interval(differences).low


def test_the_first_look_is_at_the_seeds_that_the_cells_share(planted: Planted) -> None:
    fields = {"seeds": [0, 1], "seeds_at_size": {"32": [0, 1, 2, 3]}, "until": {"width": 0.001, "max_seeds": 8}}
    verdict = judged(declared(planted(effect, seeds=6), **fields))
    expected = sequential_interval(list(verdict.values.values()), (4, 6, 8))
    assert verdict.looks == 2
    assert verdict.interval.low == pytest.approx(expected.low)


def test_diverged_seeds_are_counted_and_leave_the_comparison(planted: Planted) -> None:
    runs = declared(planted(effect, seeds=8))
    lost = (runs.cells["variant"] == DIVISION) & (runs.cells["size"] == 32) & runs.cells["seed"].isin([2, 5])
    keys = ["cell", "variant", "size", "seed"]
    runs = replace(runs, cells=runs.cells[~lost], diverged=runs.cells.loc[lost, keys].reset_index(drop=True))
    verdict = judged(runs)
    assert verdict.diverged == {SUBTRACTION: (0, 8), DIVISION: (2, 8)}
    assert list(verdict.values) == [0, 1, 3, 4, 6, 7]
    table = divergences(runs).set_index(["variant", "size"])
    assert tuple(table.loc[(DIVISION, 32)]) == (2, 8)
    assert table["diverged"].sum() == 2


@pytest.mark.parametrize(
    ("differences", "reason", "outcome"),
    [
        ({0: 0.02}, family.ONE_SEED, Outcome.NO_INTERVAL),
        (dict.fromkeys(range(4), 0.25), family.EQUAL_SEEDS, Outcome.NO_INTERVAL),
        ({}, family.NO_SEED, Outcome.NO_INTERVAL),
    ],
)
def test_without_a_spread_over_seeds_there_is_a_reason_and_no_interval(
    planted: Planted, differences: dict[int, float], reason: str, outcome: Outcome
) -> None:
    runs = with_losses(planted(effect, seeds=max(1, len(differences))), differences)
    if not differences:
        runs = replace(runs, cells=runs.cells[runs.cells["variant"] != DIVISION])
    verdict = judged(declared(runs))
    assert (verdict.reason, verdict.outcome) == (reason, outcome)
    assert np.isnan([verdict.interval.low, verdict.interval.high, verdict.resolvable]).all()
    assert verdict.seeds_needed is None


def test_one_seed_says_which_deviation_would_explain_its_difference(planted: Planted) -> None:
    assert judged(declared(with_losses(planted(effect, seeds=1), {0: 0.0196}))).needed_deviation == pytest.approx(0.01)
    table = exploratory(planted(effect, seeds=1))
    assert np.allclose(table["needed_deviation"], table["difference"].abs() / 1.96)
    assert set(table["outcome"]) == {Outcome.NO_INTERVAL}
    assert set(table["reason"]) == {family.ONE_SEED}


def test_everything_but_the_primary_comparison_is_one_holm_family(planted: Planted) -> None:
    """4 comparisons and 3 metrics, at 2 sizes and as growth in two scales."""
    runs = planted(effect)
    table, without = exploratory(runs), exploratory(declared(runs))
    assert dict(table["kind"].value_counts()) == {Kind.DIFFERENCE: 24, Kind.GROWTH: 12, Kind.LOG_GROWTH: 12}
    tested = table["p"].notna()
    order = table.loc[tested, "p"].sort_values()
    assert table.loc[order.index[0], "holm"] == pytest.approx(min(1, order.iloc[0] * tested.sum()))
    assert list(table.columns) == family.EXPLORATORY
    keys = ["treatment", "baseline", "metric", "kind", "size"]
    gone = set(table[keys].itertuples(index=False)) - set(without[keys].itertuples(index=False))
    assert [tuple(row) for row in gone] == [(SUBTRACTION, DIVISION, "val/loss_ema", Kind.DIFFERENCE, 32)]
    growth = exploratory(declared(runs, {"quantity": "growth"}))
    gone = set(table[keys].itertuples(index=False)) - set(growth[keys].itertuples(index=False))
    assert [tuple(row) for row in gone] == [(SUBTRACTION, DIVISION, "val/loss_ema", Kind.GROWTH, 32)]


def test_a_study_of_one_variant_has_no_exploratory_row(planted: Planted) -> None:
    runs = planted(effect)
    one = replace(
        runs,
        cells=runs.cells[runs.cells["variant"] == DIVISION],
        history=runs.history[runs.history["variant"] == DIVISION],
    )
    assert exploratory(one).empty
    assert list(exploratory(one).columns) == family.EXPLORATORY


def test_an_exploratory_row_is_judged_after_the_correction(planted: Planted) -> None:
    table = exploratory(planted(effect))
    convolution = table[(table["axis"] == "convolution") & (table["kind"] == Kind.DIFFERENCE)]
    assert (convolution["outcome"] == Outcome.LOWER).any()
    lost = table[table["excludes_zero"] & (table["holm"] > 0.05)]
    assert len(lost)
    assert set(lost["outcome"]) == {Outcome.UNDECIDED}


def tuning_rows(losses: dict[str, dict[float, tuple[float, float]]], size: int = 32) -> pd.DataFrame:
    rows = [
        {
            **{"cell": f"{variant}{value}{seed}", "variant": variant, "size": size, "seed": seed},
            **{"field": "optimizer.lr", "value": value, "objective": loss},
            **{"state": "diverged" if np.isnan(loss) else "done", "compared": np.nan, "kind": "generation"},
        }
        for variant, by_value in losses.items()
        for value, pair in by_value.items()
        for seed, loss in zip((1000, 1001), pair, strict=True)
    ]
    return pd.DataFrame(rows)


def parabola(best: float, noise: float = 0.0) -> dict[float, tuple[float, float]]:
    """Losses of four rates and two seeds."""
    found = {rate: 1 + 0.1 * np.log(rate / best) ** 2 for rate in (0.001, 0.002, 0.004, 0.008)}
    wiggle = dict(zip(found, (1, -1, -1, 1), strict=True))
    return {rate: (loss + noise * wiggle[rate], loss - noise * wiggle[rate]) for rate, loss in found.items()}


def test_each_variant_and_size_has_its_choice_with_what_was_tried(planted: Planted) -> None:
    losses = {DIVISION: parabola(0.002), SUBTRACTION: {**parabola(0.004), 0.008: (np.nan, np.nan)}}
    runs = replace(declared(planted(effect), **TUNED), tuning=tuning_rows(losses))
    first, second = choices(runs)
    assert (first.variant, first.size, first.field) == (DIVISION, 32, "optimizer.lr")
    assert first.choice.value == pytest.approx(0.002, rel=0.01)
    assert second.tried[0.008] == (np.inf, np.inf)
    table = tuned_rates(runs)
    assert table is not None
    assert list(table["value"]) == [first.choice.value, second.choice.value]
    assert set(table["tried"]) == {"0.001, 0.002, 0.004, 0.008"}
    assert tuned_rates(planted(effect)) is None


def test_a_rate_that_was_compared_at_stays_and_one_of_other_seeds_is_left_out(planted: Planted) -> None:
    table = tuning_rows({DIVISION: parabola(0.002, noise=0.01), SUBTRACTION: parabola(0.004, noise=0.01)})
    other = table[table["value"] == 0.008].assign(value=0.016, seed=7)
    table = pd.concat([table.assign(compared=0.0021), other.assign(compared=0.0021)])
    for found in choices(replace(declared(planted(effect), **TUNED), tuning=table)):
        assert (found.choice.value, found.choice.status) == (0.0021, "ok")
        assert list(found.tried) == [0.001, 0.002, 0.004, 0.008]


def test_the_choice_of_the_rates_widens_the_interval(planted: Planted) -> None:
    """Subtraction could be lower by the regret of its own rate, and division by that of its own."""
    runs = declared(planted(effect, seeds=6), **TUNED)
    losses = {DIVISION: parabola(0.002, noise=0.01), SUBTRACTION: parabola(0.004, noise=0.002)}
    plain, verdict = judged(runs), judged(replace(runs, tuning=tuning_rows(losses)))
    division, subtraction = choices(replace(runs, tuning=tuning_rows(losses)))
    assert verdict.tuned == (subtraction, division)
    assert division.choice.regret == pytest.approx(subtraction.choice.regret)  # the noise is pooled
    assert division.choice.regret > 0
    assert verdict.interval.low == pytest.approx(plain.interval.low - subtraction.choice.regret)
    assert verdict.interval.high == pytest.approx(plain.interval.high + division.choice.regret)
    assert (verdict.regret_low, verdict.regret_high) == pytest.approx(
        (subtraction.choice.regret, division.choice.regret)
    )
    assert plain.tuned == ()


def test_a_size_that_was_not_tuned_has_the_choice_of_the_nearest_one(planted: Planted) -> None:
    runs = declared(planted(effect, seeds=6), **TUNED)
    losses = {DIVISION: parabola(0.002), SUBTRACTION: parabola(0.004)}
    verdict = judged(replace(runs, tuning=tuning_rows(losses, size=16)))
    assert [(one.variant, one.size) for one in verdict.tuned] == [(SUBTRACTION, 16), (DIVISION, 16)]


def test_few_seeds_share_the_variance_of_the_other_sizes_within_bounds(planted: Planted) -> None:
    """Three seeds that lie close by chance get a longer interval, and three far apart a shorter one."""
    typical = [0.01, -0.01, 0.0]
    for values, factor in (
        ([0.0100, 0.0101, 0.0102], LONGEST),
        ([0.1, -0.1, 0.0], stats.t.ppf(0.97, 2) / stats.t.ppf(0.975, 2)),
    ):
        own, pooled = mean_interval(values), moderated_interval(values, [typical])
        assert pooled.high - pooled.value == pytest.approx(factor * (own.high - own.value))
    assert moderated_interval(typical, []) == mean_interval(typical)
    runs = with_losses(planted(effect), dict(enumerate([0.0100, 0.0101, 0.0102])))
    verdict = judged(declared(runs))
    assert verdict.method is Method.MODERATED
    assert verdict.interval.high - verdict.interval.value > mean_interval(list(verdict.values.values())).high - 0.0101
