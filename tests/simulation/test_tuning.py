"""Planted curves: what a choice gives away is within its regret, and verdicts between tuned variants hold."""

from collections.abc import Callable
from math import isfinite, log, nan

import numpy as np
import pytest
from numpy.typing import NDArray

from lina_lab.decisions.sequential import mean_interval
from lina_lab.decisions.tuning import Choice, ChoiceStatus, choose, choose_all, widened

pytestmark = pytest.mark.simulation

Array = NDArray[np.float64]
Curve = Callable[[Array], Array]
PARABOLA: Curve = lambda x: x**2  # noqa: E731
SKEWED: Curve = lambda x: 2 * (np.exp(x) - 1 - x)  # noqa: E731 - steep where training diverges; x^2 near its minimum
STUDIES = 800


def planted(
    rng: np.random.Generator,
    curve: Curve,
    *,
    curvature: float,
    noise: float,
    seeds: int,
    values: int = 5,
    tilt: float = 0.0,
    offset: float = 0.0,
) -> tuple[Choice, float, float]:
    """One variant that is tuned on a grid of ratio 2.

    Args:
        rng: source of the noise.
        curve: loss over the logarithm of value / best.
        curvature: of the loss at its minimum.
        noise: deviation of a loss after what all losses of its seed share.
        seeds: seeds that are tried.
        values: values that are tried.
        tilt: deviation over seeds of the slope of the loss.
        offset: distance of the best value from the middle of the grid, in steps, besides up to half a step at random.

    Returns:
        The choice, its loss minus the smallest possible one, and that of the best value tried; NaN without a choice.
    """
    x = log(2) * (np.arange(values) - (values - 1) / 2)
    best = log(2) * (offset + rng.uniform(-0.5, 0.5))
    losses = curvature * curve(x - best)[:, None] + rng.normal(0, noise, (values, seeds)) + rng.normal(0, 0.1, seeds)
    losses += x[:, None] * rng.normal(0, tilt, seeds)
    choice = choose({float(np.exp(place)): list(row) for place, row in zip(x, losses, strict=True)})
    if choice.status is not ChoiceStatus.OK or choice.value is None:
        return choice, nan, nan
    places = np.array([log(choice.value), x[np.argmin(losses.mean(axis=1))]])
    excess, tried = curvature * curve(places - best)
    return choice, float(excess), float(tried)


@pytest.mark.parametrize(("curvature", "noise"), [(0.05, 0.005), (0.05, 0.02), (0.02, 0.02), (0.1, 0.02)])
@pytest.mark.parametrize("curve", [PARABOLA, SKEWED], ids=["parabola", "skewed"])
@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_what_the_choice_gives_away_is_within_its_regret(
    curve: Curve, curvature: float, noise: float, seeds: int
) -> None:
    rng = np.random.default_rng(0)
    studies = [planted(rng, curve, curvature=curvature, noise=noise, seeds=seeds) for _ in range(STUDIES)]
    inside = [excess <= choice.regret for choice, excess, _ in studies if isfinite(choice.regret)]
    assert len(inside) > 0.85 * STUDIES
    assert np.mean(inside) > 0.93


@pytest.mark.parametrize("curve", [PARABOLA, SKEWED], ids=["parabola", "skewed"])
def test_the_minimum_of_the_curve_is_better_than_the_best_value_tried(curve: Curve) -> None:
    rng = np.random.default_rng(0)
    for curvature, noise in ((0.05, 0.005), (0.1, 0.02)):
        studies = [planted(rng, curve, curvature=curvature, noise=noise, seeds=2) for _ in range(STUDIES)]
        assert np.nanmean([excess for _, excess, _ in studies]) < 0.35 * np.nanmean([tried for *_, tried in studies])


def test_a_best_value_that_differs_between_seeds_is_within_the_regret_too() -> None:
    """The losses of a seed then depart from the curve together, not one by one."""
    rng = np.random.default_rng(0)
    studies = [planted(rng, PARABOLA, curvature=0.05, noise=0.01, seeds=3, tilt=0.02) for _ in range(STUDIES)]
    assert np.nanmean([excess <= choice.regret for choice, excess, _ in studies]) > 0.9


@pytest.mark.parametrize(("offset", "status"), [(-4.0, ChoiceStatus.EDGE_LOW), (4.0, ChoiceStatus.EDGE_HIGH)])
def test_a_best_value_beyond_the_grid_is_refused(offset: float, status: ChoiceStatus) -> None:
    rng = np.random.default_rng(0)
    found = [planted(rng, PARABOLA, curvature=0.05, noise=0.01, seeds=2, offset=offset)[0].status for _ in range(300)]
    assert found.count(status) / len(found) > 0.99


@pytest.mark.parametrize("seeds", [1, 2, 4])
@pytest.mark.parametrize("steep", [0.1, 0.2])
def test_only_the_widened_interval_covers_the_difference_between_tuned_variants(steep: float, seeds: int) -> None:
    """The minima are equal; one variant depends on the value more strongly than the other."""
    rng = np.random.default_rng(0)
    plain, wide = [], []
    for _ in range(STUDIES):
        treatment, lost, _ = planted(rng, SKEWED, curvature=steep, noise=0.03, seeds=seeds)
        baseline, lost_there, _ = planted(rng, SKEWED, curvature=0.03, noise=0.03, seeds=seeds)
        if not (isfinite(treatment.regret) and isfinite(baseline.regret)):
            continue
        interval = mean_interval(list(rng.normal(lost - lost_there, 0.01, 16)))
        plain.append(interval.low <= 0 <= interval.high)
        interval = widened(interval, treatment.regret, baseline.regret)
        wide.append(interval.low <= 0 <= interval.high)
    assert len(wide) > 0.75 * STUDIES
    assert np.mean(plain) < 0.9
    assert np.mean(wide) >= 0.95


def test_next_to_values_that_diverged_the_regret_covers_what_is_lost_among_the_values_tried() -> None:
    rng, inside = np.random.default_rng(0), []
    for _ in range(STUDIES):
        truth = np.array([0.10, rng.uniform(0, 0.03), rng.uniform(0, 0.03)])
        losses = truth[:, None] + rng.normal(0, 0.02, (3, 3)) + rng.normal(0, 0.1, 3)
        table = {0.001 * 2**i: list(row) for i, row in enumerate(losses)} | {0.008: [np.inf] * 3}
        choice = choose(table)
        if choice.value == 0.004:
            inside.append(truth[2] - truth.min() <= choice.regret)
    assert len(inside) > 0.3 * STUDIES
    assert np.mean(inside) > 0.94


@pytest.mark.parametrize("curve", [PARABOLA, SKEWED], ids=["parabola", "skewed"])
@pytest.mark.parametrize("values", [3, 4])
def test_with_pooled_noise_the_regret_is_smaller_and_still_bounds_what_is_given_away(curve: Curve, values: int) -> None:
    """Four variants with noise of their own, from 0.7 to 1.4 times the usual one, tuned on three seeds."""
    rng, covered, pooled, alone = np.random.default_rng(0), [], [], []
    x = log(2) * (np.arange(values) - (values - 1) / 2)
    for _ in range(STUDIES // 4):
        bests = log(2) * rng.uniform(-0.5, 0.5, 4)
        noises = 0.02 * np.array([0.7, 0.9, 1.1, 1.4])
        tables = [
            0.05 * curve(x - best)[:, None] + rng.normal(0, noise, (values, 3)) + rng.normal(0, 0.1, 3)
            for best, noise in zip(bests, noises, strict=True)
        ]
        losses = [{float(np.exp(place)): list(row) for place, row in zip(x, table, strict=True)} for table in tables]
        for best, choice, own in zip(bests, choose_all(losses), map(choose, losses), strict=True):
            if choice.status is ChoiceStatus.OK and choice.value is not None:
                covered.append(0.05 * curve(np.array([log(choice.value) - best]))[0] <= choice.regret)
                pooled.append(choice.regret)
                alone.append(own.regret)
    assert np.mean(covered) > 0.93
    assert np.median(pooled) < 0.9 * np.median(alone)
