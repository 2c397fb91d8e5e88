"""Racing over seeds gives up a variant wrongly as rarely as it says, and saves seeds where one is worse."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from lina_lab.decisions.racing import Race, race

pytestmark = pytest.mark.simulation

STUDIES, SEEDS, LEVEL = 4000, 12, 0.05
NOISES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "t3": lambda rng, shape: rng.standard_t(3, size=shape) / 3**0.5,
}


def races(shifts: list[float], block: int, noise: str = "normal", studies: int = STUDIES) -> list[Race[int]]:
    """Races of variants whose losses share the noise of the seed; the deviation of a difference is 1."""
    rng = np.random.default_rng(block)
    own = NOISES[noise](rng, (studies, len(shifts), SEEDS)) / 2**0.5
    losses = own + 3 * rng.normal(size=(studies, 1, SEEDS)) + np.array(shifts)[:, None]
    return [race(dict(enumerate(table.tolist())), block=block, level=LEVEL) for table in losses]


def wrong(found: list[Race[int]], *good: int) -> float:
    return float(np.mean([any(variant in each.dropped for variant in good) for each in found]))


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("block", [2, 3, 4])
@pytest.mark.parametrize("variants", [2, 3, 6])
def test_equal_variants_lose_any_of_them_no_more_often_than_the_level(variants: int, block: int, noise: str) -> None:
    """4,000 studies: the standard error is 0.0035 at most."""
    assert wrong(races([0.0] * variants, block, noise), *range(variants)) < LEVEL + 2 * 0.0035


@pytest.mark.parametrize("gap", [0.1, 0.5, 2.0])
def test_the_best_variant_is_lost_no_more_often_than_the_level_however_far_the_others_are(gap: float) -> None:
    for shifts in ([0.0, gap, gap, gap], [0.0, gap, 2 * gap, 3 * gap]):
        assert wrong(races(shifts, 3), 0) < LEVEL + 2 * 0.0035
    # Two equally good ones, of which one is chosen by its luck.
    assert wrong(races([0.0, 0.0, gap, gap], 3), 0, 1) < LEVEL + 2 * 0.0035


def test_a_race_at_student_s_t_for_each_look_would_be_wrong_more_often() -> None:
    """What the repeated intervals and the pairs are for."""
    rng = np.random.default_rng(0)
    losses = rng.normal(size=(STUDIES, 4, SEEDS)) / 2**0.5
    lost = np.zeros(STUDIES, dtype=bool)
    for seeds in (3, 6, 9):
        means = losses[:, :, :seeds].mean(axis=2)
        best = losses[np.arange(STUDIES), means.argmin(axis=1), :seeds]
        differences = losses[:, :, :seeds] - best[:, None]
        deviation = differences.std(axis=2, ddof=1)
        t = differences.mean(axis=2) / np.maximum(deviation, 1e-12) * seeds**0.5
        lost |= (t > {3: 4.303, 6: 2.571, 9: 2.306}[seeds]).any(axis=1)
    assert lost.mean() > 0.2


def test_a_planted_worse_variant_leaves_early_and_saves_seeds() -> None:
    found = races([0.0, 0.0, 4.0, 4.0], 4, studies=1000)
    trained = [sum(each.dropped[v].seeds if v in each.dropped else SEEDS for v in range(4)) for each in found]
    assert np.mean([{2, 3} <= each.dropped.keys() for each in found]) > 0.95
    assert np.mean(trained) < 0.85 * 4 * SEEDS
