"""Looks at a growing number of seeds, their levels and their intervals."""

import time
from math import inf, isnan, nan

import numpy as np
import pytest
from scipy.stats import t as student

from lina_lab.decisions import sequential
from lina_lab.decisions.sequential import Floats, look_levels, looks, mean_interval, sequential_interval


@pytest.mark.parametrize(
    ("first", "last", "step", "expected"),
    [(4, 16, 4, (4, 8, 12, 16)), (4, 15, 4, (4, 8, 12, 15)), (5, 5, 2, (5,)), (1, 3, 1, (1, 2, 3))],
)
def test_one_looks_from_the_first_number_of_seeds_in_steps_and_always_at_the_last(
    first: int, last: int, step: int, expected: tuple[int, ...]
) -> None:
    assert looks(first, last, step) == expected


@pytest.mark.parametrize(("first", "last", "step"), [(0, 4, 1), (5, 4, 1), (4, 8, 0), (-2, 4, 2)])
def test_looks_that_cannot_be_taken_are_refused_in_one_sentence(first: int, last: int, step: int) -> None:
    with pytest.raises(ValueError, match=f"not first={first}, last={last}, step={step}$"):
        looks(first, last, step)


def test_a_single_look_has_the_whole_level() -> None:
    assert look_levels((8,), 0.05) == (pytest.approx(0.05),)


def test_the_first_level_is_what_is_spent_by_then_and_the_last_one_less_than_alpha() -> None:
    levels = look_levels(looks(4, 16, 2))
    assert levels[0] == pytest.approx(0.05 * (4 / 16) ** 2)
    assert list(levels) == sorted(levels)
    assert 0.025 < levels[-1] < 0.03


def test_levels_do_not_depend_on_the_grid_of_the_integration(monkeypatch: pytest.MonkeyPatch) -> None:
    designs = [looks(4, 16, 2), looks(3, 16, 1)]
    coarse = [look_levels(design) for design in designs]
    monkeypatch.setattr(sequential, "CELLS", 3 * sequential.CELLS)
    monkeypatch.setattr(sequential, "TURNS", 2 * sequential.TURNS)
    sequential._levels.cache_clear()
    fine = [look_levels(design) for design in designs]
    sequential._levels.cache_clear()
    for one, other in zip(coarse, fine, strict=True):
        assert one == pytest.approx(other, rel=0.01)


@pytest.mark.parametrize("seeds", [2, 3, 8, 40])
def test_another_seed_turns_the_null_distribution_into_that_of_one_seed_more(seeds: int) -> None:
    edges = np.linspace(0, np.pi / 2, sequential.CELLS + 1)

    def beyond(count: int) -> Floats:
        """Probability that the angle of `count` seeds lies beyond each edge: that abs(t) is beyond its statistic."""
        return 2 * student.sf((count - 1) ** 0.5 * np.tan(edges), count - 1)

    mass = sequential._another_seed(-np.diff(beyond(seeds)), seeds)
    tail, expected = np.cumsum(mass[::-1])[::-1], beyond(seeds + 1)[:-1]
    compared = expected > 1e-3
    assert tail[compared] == pytest.approx(expected[compared], rel=0.012)


def test_the_first_call_is_quick_enough_for_a_command_that_shows_a_plan() -> None:
    sequential._levels.cache_clear()
    start = time.process_time()
    look_levels(looks(4, 64, 2))
    assert time.process_time() - start < 0.5


def test_a_look_at_one_seed_spends_nothing() -> None:
    assert look_levels((1, 4, 8)) == (0.0, *look_levels((4, 8)))


@pytest.mark.parametrize("numbers", [(), (4, 4), (8, 4), (0, 4)])
def test_looks_that_do_not_increase_have_no_levels(numbers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="looks must be increasing numbers of seeds from 1"):
        look_levels(numbers)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, nan])
def test_an_alpha_that_is_no_probability_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1"):
        look_levels((4, 8), alpha)


def test_the_plain_interval_is_student_s() -> None:
    values = [0.1, 0.3, 0.2, 0.5]
    interval = mean_interval(values, 0.9)
    low, high = student.interval(0.9, 3, np.mean(values), np.std(values, ddof=1) / 2)
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert (interval.value, interval.level, interval.seeds) == (pytest.approx(0.275), 0.9, 4)


def test_values_by_seed_need_no_list() -> None:
    assert mean_interval({0: 0.1, 1: 0.3}.values()) == mean_interval([0.1, 0.3])


def test_one_seed_has_a_mean_and_no_interval() -> None:
    for interval in (mean_interval([0.3]), sequential_interval([0.3], (4, 8))):
        assert (interval.value, interval.seeds) == (0.3, 1)
        assert isnan(interval.low)
        assert isnan(interval.high)


def test_no_seed_has_no_mean() -> None:
    interval = sequential_interval([], (4, 8))
    assert interval.seeds == 0
    assert isnan(interval.value)
    assert isnan(interval.low)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.3])
def test_seeds_that_agree_exactly_have_no_interval_of_no_width(value: float) -> None:
    interval = mean_interval([value + 1 - 1] * 3)
    assert interval.value == pytest.approx(value)
    assert isnan(interval.low)
    assert isnan(interval.high)


@pytest.mark.parametrize("bad", [nan, inf])
def test_a_value_that_is_not_finite_is_refused_in_one_sentence(bad: float) -> None:
    with pytest.raises(ValueError, match=r"^a mean needs finite values, and 1 are not$"):
        sequential_interval([0.1, bad], (2, 4))


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_that_is_no_probability_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match=rf"^confidence must lie between 0 and 1, not {confidence}$"):
        mean_interval([0.1, 0.2], confidence)
    with pytest.raises(ValueError, match=r"^confidence must lie between 0 and 1"):
        sequential_interval([0.1, 0.2], (2, 4), confidence)


def test_a_repeated_interval_is_student_s_at_the_level_of_the_look() -> None:
    values = list(np.random.default_rng(0).normal(size=8))
    interval = sequential_interval(values, (4, 8, 16))
    assert (interval.low, interval.high) == pytest.approx(
        student.interval(1 - look_levels((4, 8, 16))[1], 7, np.mean(values), np.std(values, ddof=1) / 8**0.5)
    )
    assert interval.level == 0.95


def test_with_one_look_the_repeated_interval_is_the_plain_one() -> None:
    values = [0.1, 0.3, 0.2, 0.5]
    repeated, plain = sequential_interval(values, (4,)), mean_interval(values)
    assert (repeated.low, repeated.high) == pytest.approx((plain.low, plain.high))


def test_between_looks_the_level_is_the_stricter_one_of_the_look_before() -> None:
    values = list(np.random.default_rng(0).normal(size=6))
    interval = sequential_interval(values, (4, 8))
    assert interval.high - interval.low == pytest.approx(_width(values, look_levels((4, 8))[0]))


def test_below_the_first_look_the_level_is_what_is_spent_by_then() -> None:
    values = [0.1, 0.3, 0.2]
    interval = sequential_interval(values, (4, 8))
    assert interval.high - interval.low == pytest.approx(_width(values, 0.05 * (3 / 8) ** 2))


def test_above_the_last_look_the_level_is_its_own() -> None:
    values = list(np.random.default_rng(0).normal(size=9))
    interval = sequential_interval(values, (4, 8))
    assert interval.high - interval.low == pytest.approx(_width(values, look_levels((4, 8))[1]))


def _width(values: list[float], level: float) -> float:
    low, high = student.interval(1 - level, len(values) - 1, 0, np.std(values, ddof=1) / len(values) ** 0.5)
    return float(high - low)
