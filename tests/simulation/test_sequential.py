"""Looking at growing numbers of seeds keeps what an interval promises."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import t as student

from lina_lab.decisions.power import resolvable
from lina_lab.decisions.sequential import look_levels, looks, sequential_interval
from lina_lab.decisions.verdicts import Outcome, judge

pytestmark = pytest.mark.simulation

Noise = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]
STUDIES = 60_000
DESIGNS = [looks(4, 16, 2), looks(8, 16, 2), looks(3, 12, 1)]
NOISES: dict[str, Noise] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "t3": lambda rng, shape: rng.standard_t(3, size=shape) / 3**0.5,
}


def stopped(
    design: tuple[int, ...], levels: tuple[float, ...], effect: float, noise: str = "normal"
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64], NDArray[np.int_]]:
    """Studies that stop when they are resolved: whether they are, the ends of their intervals, and their seeds.

    The deviation of a difference is 1.
    """
    values = effect + NOISES[noise](np.random.default_rng(0), (STUDIES, design[-1]))
    resolved = np.zeros(STUDIES, dtype=bool)
    low, high, seeds = np.empty(STUDIES), np.empty(STUDIES), np.empty(STUDIES, dtype=int)
    for count, level in zip(design, levels, strict=True):
        mean, deviation = values[:, :count].mean(axis=1), values[:, :count].std(axis=1, ddof=1)
        half = student.ppf(1 - level / 2, count - 1) * deviation / count**0.5
        going = ~resolved
        low[going], high[going], seeds[going] = (mean - half)[going], (mean + half)[going], count
        resolved |= (low > 0) | (high < 0)
    return resolved, low, high, seeds


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_null_studies_that_stop_when_resolved_are_wrong_in_5_percent(design: tuple[int, ...]) -> None:
    """60,000 studies: the standard error is 0.0009."""
    resolved, *_ = stopped(design, look_levels(design), effect=0)
    assert np.mean(resolved) == pytest.approx(0.05, abs=0.0025)


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_student_s_t_at_every_look_would_be_wrong_more_often(design: tuple[int, ...]) -> None:
    resolved, *_ = stopped(design, (0.05,) * len(design), effect=0)
    assert np.mean(resolved) > 0.09


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_noise_with_heavy_tails_is_wrong_no_more_often(design: tuple[int, ...]) -> None:
    resolved, *_ = stopped(design, look_levels(design), effect=0, noise="t3")
    assert np.mean(resolved) < 0.0525


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("effect", [0.2, 0.6, 1.0, 2.0])
def test_the_interval_of_the_study_that_stopped_covers_the_effect(effect: float, noise: str) -> None:
    for design in DESIGNS:
        _, low, high, _ = stopped(design, look_levels(design), effect, noise)
        assert np.mean((low <= effect) & (effect <= high)) >= 0.95


@pytest.mark.parametrize("power", [0.8, 0.9])
def test_the_power_is_close_to_that_of_a_fixed_number_of_seeds_and_fewer_are_used(power: float) -> None:
    for design in DESIGNS[:2]:
        resolved, _, _, seeds = stopped(design, look_levels(design), effect=resolvable(16, 1.0, power))
        assert power - 0.06 < np.mean(resolved) < power
        assert np.mean(seeds) < 13


@pytest.mark.parametrize(
    ("effect", "outcome", "at_least"), [(0.0, Outcome.EQUIVALENT, 0.6), (1.5, Outcome.HIGHER, 0.99)]
)
def test_studies_judged_at_every_look_come_to_true_verdicts(effect: float, outcome: Outcome, at_least: float) -> None:
    """Through the functions that a study calls, until it is resolved or equivalent within a margin of 1 deviation."""
    rng, design, found = np.random.default_rng(1), looks(4, 16, 2), []
    for _ in range(2000):
        values = list(rng.normal(effect, 1, design[-1]))
        verdicts = (judge(sequential_interval(values[:count], design), margin=1.0) for count in design)
        found.append(next((verdict for verdict in verdicts if verdict is not Outcome.UNDECIDED), Outcome.UNDECIDED))
    assert found.count(outcome) / len(found) > at_least
    assert found.count(outcome) + found.count(Outcome.UNDECIDED) > 0.945 * len(found)
