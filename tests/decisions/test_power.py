"""How many seeds a comparison needs."""

from math import inf, nan

import numpy as np
import pytest
from scipy.stats import nct, t

from lina_lab.decisions.power import resolvable, seeds_needed


@pytest.mark.parametrize(
    ("difference", "deviation", "seeds"), [(0.019, 0.029, 21), (0.016, 0.011, 6), (-0.077, 0.0297, 4), (0.01, 0.02, 34)]
)
def test_seeds_are_those_of_the_tables(difference: float, deviation: float, seeds: int) -> None:
    assert seeds_needed(difference, deviation) == seeds


@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
@pytest.mark.parametrize("effect", [0.2, 0.7, 1.5, 4.0])
def test_the_seeds_are_the_smallest_that_reach_the_power(effect: float, confidence: float, power: float) -> None:
    def reached(seeds: int) -> float:
        return float(nct.sf(t.ppf((1 + confidence) / 2, seeds - 1), seeds - 1, effect * seeds**0.5))

    seeds = seeds_needed(effect * 0.01, 0.01, power, confidence)
    assert reached(seeds) >= power
    assert seeds == 2 or reached(seeds - 1) < power


@pytest.mark.parametrize("seeds", [2, 3, 8, 100])
def test_what_is_resolvable_needs_these_seeds(seeds: int) -> None:
    difference = resolvable(seeds, 0.02)
    assert seeds_needed(difference * 1.0001, 0.02) == seeds
    assert seeds == 2 or seeds_needed(difference * 0.99, 0.02) >= seeds


def test_more_seeds_resolve_less_also_where_the_approximation_begins() -> None:
    differences = [resolvable(seeds, 1.0) for seeds in (2, 5, 50, 9_999, 10_000, 10_001, 10**6)]
    assert differences == sorted(differences, reverse=True)
    assert np.allclose(differences[-4:-1], 2.8016 / 100, rtol=1e-3)


def test_a_tiny_difference_needs_many_seeds_and_no_time() -> None:
    assert seeds_needed(1e-6, 0.01) == pytest.approx(2.8016**2 * 1e8, rel=1e-3)


def test_without_noise_two_seeds_resolve_everything() -> None:
    assert seeds_needed(0.01, 0.0) == 2
    assert resolvable(2, 0.0) == 0


@pytest.mark.parametrize("seeds", [0, 1])
def test_fewer_than_two_seeds_resolve_nothing(seeds: int) -> None:
    assert resolvable(seeds, 0.02) == inf


def test_a_power_below_the_level_is_reached_by_chance() -> None:
    assert resolvable(4, 0.02, power=0.01) == 0
    assert seeds_needed(0.01, 0.02, power=0.01) == 2


@pytest.mark.parametrize("difference", [0.0, nan, inf])
def test_a_difference_that_needs_no_number_is_refused(difference: float) -> None:
    with pytest.raises(ValueError, match=rf"^a number of seeds needs a difference .* not {difference}$"):
        seeds_needed(difference, 0.1)


@pytest.mark.parametrize("deviation", [-0.1, nan, inf])
def test_a_deviation_that_is_none_is_refused(deviation: float) -> None:
    with pytest.raises(ValueError, match=rf"^a deviation must be finite and not negative, not {deviation}$"):
        seeds_needed(0.1, deviation)
    with pytest.raises(ValueError, match=r"^a deviation must be"):
        resolvable(4, deviation)


def test_probabilities_and_seeds_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^power must lie between 0 and 1, not 80$"):
        seeds_needed(0.1, 0.1, power=80)
    with pytest.raises(ValueError, match=r"^confidence must lie between 0 and 1, not 1$"):
        resolvable(4, 0.1, confidence=1)
    with pytest.raises(ValueError, match=r"^seeds must not be negative, not -1$"):
        resolvable(-1, 0.1)
