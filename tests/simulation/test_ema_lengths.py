"""The interval of the loss at the chosen EMA length covers, and one of the choosing seeds does not."""

import numpy as np
import pandas as pd
import pytest
from lina_lab.analysis.stats.ema_lengths import best_lengths, chosen_on_others, differences_at_best
from scipy import stats

from .studies import SIZES, VARIANTS, null_losses, study_runs

pytestmark = pytest.mark.simulation
LENGTHS = (0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.13, 0.16)
STUDIES = 300
LOSS, COMMON, OWN = 0.7, 0.004, 0.01
NOISES = ("normal", "t3")


def truth(curvature: float) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """The expected loss at each length."""
    return LOSS + curvature * np.log(np.array(LENGTHS) / 0.07) ** 2


def simulated(curvature: float, noise: str, seeds: int, count: int = STUDIES) -> pd.DataFrame:
    """`length_values` of many studies, each a `variant`: seeds have a level in common, and a noise at each length."""
    rng = np.random.default_rng(seeds)
    shape = (count, seeds, len(LENGTHS))
    own = rng.standard_t(3, shape) / np.sqrt(3) if noise == "t3" else rng.normal(size=shape)
    losses = truth(curvature) + COMMON * rng.normal(size=(count, seeds, 1)) + OWN * own
    index = pd.MultiIndex.from_product([range(count), range(seeds), LENGTHS], names=["variant", "seed", "length"])
    return index.to_frame(index=False).assign(size=0, metric="val/loss", value=losses.ravel(), decay=LOSS)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("curvature", [0.0, 0.02])
@pytest.mark.parametrize("seeds", [3, 8])
def test_the_interval_covers_the_expected_loss_at_the_chosen_lengths(seeds: int, curvature: float, noise: str) -> None:
    """Whether all lengths are equally good, or the best one is clear."""
    values = simulated(curvature, noise, seeds)
    found = best_lengths(values).set_index("variant")
    held = chosen_on_others(values)
    expected = dict(zip(LENGTHS, truth(curvature), strict=True))
    target = held.assign(value=held["length"].map(expected)).groupby("variant")["value"].mean()
    assert len(found) == STUDIES
    covered = ((found["low"] <= target) & (target <= found["high"])).mean()
    assert covered >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / STUDIES)
    gain = ((found["gain low"] <= target - LOSS) & (target - LOSS <= found["gain high"])).mean()
    assert gain == covered


@pytest.mark.parametrize("seeds", [3, 8])
def test_variants_that_are_equally_good_seldom_differ_at_their_own_best_lengths(seeds: int) -> None:
    """At most 5% of studies of 4 comparisons find any difference; each of them is counted once for all comparisons."""
    studies = 200
    runs = study_runs(null_losses("normal", 1, seeds, np.random.default_rng(0))[0])
    every = simulated(0.0, "normal", seeds, count=studies * len(VARIANTS))
    found = 0
    for study in range(studies):
        place = every["variant"] - study * len(VARIANTS)
        own = every[(place >= 0) & (place < len(VARIANTS))].assign(size=SIZES[0])
        named = own.assign(variant=[VARIANTS[each % len(VARIANTS)] for each in own["variant"]])
        table = differences_at_best(runs, named)
        assert len(table) == 4
        found += bool((table["holm"] <= 0.05).any())
    assert found / studies <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / studies)


def test_the_loss_on_the_seeds_that_chose_the_length_flatters_it() -> None:
    """What a report without held-out seeds would say: the mean at the best length, with its interval."""
    values = simulated(0.0, "normal", 8)
    wide = values.pivot_table(index=["variant", "seed"], columns="length", values="value")
    means = wide.groupby(level="variant").mean()
    best = means.idxmin(axis=1)
    errors = wide.groupby(level="variant").std() / np.sqrt(8)
    value = means.min(axis=1)
    error = pd.Series([errors.loc[v, length] for v, length in best.items()], index=best.index)
    reach = stats.t.ppf(0.975, 7) * error
    assert ((value - reach <= LOSS) & (value + reach >= LOSS)).mean() < 0.85
    held = best_lengths(values).set_index("variant")["value"]
    assert abs(held.mean() - LOSS) < 4 * held.std() / np.sqrt(STUDIES)
    assert value.mean() < LOSS - 0.003
