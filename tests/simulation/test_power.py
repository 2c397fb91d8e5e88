"""The seeds that power asks for are enough, and one fewer is not."""

import numpy as np
import pytest
from scipy.stats import t as student

from lina_lab.decisions.power import resolvable, seeds_needed

pytestmark = pytest.mark.simulation


def resolved(effect: float, seeds: int, confidence: float = 0.95, studies: int = 100_000) -> float:
    """Share of simulated studies whose interval lies above zero; the deviation is 1."""
    values = np.random.default_rng(0).normal(effect, 1, (studies, seeds))
    half = student.ppf((1 + confidence) / 2, seeds - 1) * values.std(axis=1, ddof=1) / seeds**0.5
    return float(np.mean(values.mean(axis=1) > half))


@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("effect", [0.5, 0.655, 1.0, 2.5])
def test_the_seeds_needed_reach_the_power_and_one_fewer_does_not(effect: float, power: float) -> None:
    seeds = seeds_needed(effect, 1.0, power)
    assert resolved(effect, seeds) > power - 0.005
    assert seeds == 2 or resolved(effect, seeds - 1) < power + 0.005


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.996])
@pytest.mark.parametrize("seeds", [2, 3, 8, 16])
def test_the_resolvable_difference_is_resolved_with_the_power(seeds: int, confidence: float) -> None:
    effect = resolvable(seeds, 1.0, 0.8, confidence)
    assert resolved(effect, seeds, confidence) == pytest.approx(0.8, abs=0.006)
