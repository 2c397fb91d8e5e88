"""The standard error of a correlated series is as large as it says."""

import numpy as np
import pytest
from lina_lab.analysis.stats.noise import standard_errors
from scipy.signal import lfilter

from .studies import Floats

pytestmark = pytest.mark.simulation
SERIES = 1000


def correlated(correlation: float, steps: int, rng: np.random.Generator) -> Floats:
    """Autoregressive series of order 1, of shape (SERIES, steps) and deviation 1, in equilibrium."""
    noise = rng.normal(size=(SERIES, steps + 100)) * np.sqrt(1 - correlation**2)
    return np.asarray(lfilter([1], [1, -correlation], noise)[:, 100:])


def of_20_blocks(series: Floats) -> Floats:
    """What reports had before: the standard error from the means of 20 blocks."""
    means = np.array([block.mean(axis=1) for block in np.array_split(series, 20, axis=1)])
    return np.asarray(means.std(axis=0, ddof=1) / np.sqrt(20))


@pytest.mark.parametrize("drift", [0.0, 1.0])
@pytest.mark.parametrize(("correlation", "steps"), [(0.0, 80), (0.43, 80), (0.6, 80), (0.8, 80), (0.8, 2000)])
def test_stated_errors_are_right_on_average_in_short_and_long_series(
    correlation: float, steps: int, drift: float
) -> None:
    series = correlated(correlation, steps, np.random.default_rng(steps))
    true = series.mean(axis=1).std()
    stated = standard_errors(series + drift * np.linspace(-1, 1, steps))
    assert np.isnan(stated).mean() < 0.25
    assert 0.85 < np.nanmean(stated) / true < 1.2
    if steps == 80 and correlation == 0.8 and not drift:
        assert of_20_blocks(series).mean() / true < 0.75


def test_blocks_of_four_steps_take_a_drift_for_noise() -> None:
    series = correlated(0.0, 80, np.random.default_rng(0))
    true = series.mean(axis=1).std()
    drifting = series + np.linspace(-1, 1, 80)
    assert of_20_blocks(drifting).mean() / true > 1.4
    assert standard_errors(drifting).mean() / true == pytest.approx(1, abs=0.1)
