"""The interval of the loss at the chosen EMA length covers, and the loss does not flatter the choice."""

import numpy as np
import pandas as pd
import pytest
from lina_lab.analysis.stats.ema_lengths import best_lengths, chosen_on_others
from scipy import stats

pytestmark = pytest.mark.simulation
LENGTHS = (0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.13, 0.16)
STUDIES = 300
LOSS, COMMON, OWN = 0.7, 0.004, 0.01


def truth(curvature: float) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """The expected loss at each length."""
    return LOSS + curvature * np.log(np.array(LENGTHS) / 0.07) ** 2


def simulated(curvature: float, noise: str, seeds: int) -> pd.DataFrame:
    """`length_values` of many studies, each a `variant`: seeds have a level in common, and a noise at each length."""
    rng = np.random.default_rng(seeds)
    shape = (STUDIES, seeds, len(LENGTHS))
    own = rng.standard_t(3, shape) / np.sqrt(3) if noise == "t3" else rng.normal(size=shape)
    common = COMMON * rng.normal(size=(STUDIES, seeds, 1))
    index = pd.MultiIndex.from_product([range(STUDIES), range(seeds), LENGTHS], names=["variant", "seed", "length"])
    losses = (truth(curvature) + common + OWN * own).ravel()
    decay = np.broadcast_to(LOSS + common, shape).ravel()
    return index.to_frame(index=False).assign(size=0, metric="val/loss", value=losses, decay=decay)


def at_least(rate: float) -> float:
    """What a rate may look like in so many studies, by three standard errors."""
    return rate - 3 * float(np.sqrt(rate * (1 - rate) / STUDIES))


@pytest.mark.parametrize("noise", ["normal", "t3"])
@pytest.mark.parametrize("curvature", [0.0, 0.02])
@pytest.mark.parametrize("seeds", [3, 8])
def test_the_interval_covers_the_expected_loss_at_the_best_length(seeds: int, curvature: float, noise: str) -> None:
    """Whether all lengths are equally good or not; and so does that of the difference to the exponential average."""
    found = best_lengths(simulated(curvature, noise, seeds))
    assert len(found) == STUDIES
    expected = found["length"].map(dict(zip(LENGTHS, truth(curvature), strict=True)))
    covered = (found["low"] <= expected) & (expected <= found["high"])
    gained = (found["gain low"] <= expected - LOSS) & (expected - LOSS <= found["gain high"])
    assert covered.mean() >= at_least(0.95)
    assert gained.mean() >= at_least(0.95)


def test_what_each_seed_gives_at_the_length_of_the_others_does_not_flatter_and_is_no_sample() -> None:
    """Where all lengths are equally good: its mean is right, and Student's t over it does not cover."""
    values = simulated(0.0, "normal", 8)
    held = chosen_on_others(values).groupby("variant")["value"]
    assert abs(held.mean().mean() - LOSS) < 3 * held.mean().std() / np.sqrt(STUDIES)
    reach = stats.t.ppf(0.975, 7) * held.std() / np.sqrt(8)
    assert ((held.mean() - LOSS).abs() <= reach).mean() < 0.88
    means = values.groupby(["variant", "length"])["value"].mean().groupby("variant").min()
    assert means.mean() < LOSS - 0.003
