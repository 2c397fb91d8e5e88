"""Intervals over runs cover the planted truth about as often as they claim: nominal 90%."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from lina_lab.analysis.stats import run_laws
from lina_lab.analysis.stats.laws import surface
from lina_lab.analysis.stats.resampling import resampled_weights
from lina_lab.analysis.stats.run_compute import analyze_runs

E, A, B, ALPHA, BETA = 1.8, 480.0, 2100.0, 0.35, 0.37
BEST_SIZE = BETA / (ALPHA + BETA)
LOW, HIGH = 0.85, 0.95
STUDIES = 150
pytestmark = pytest.mark.simulation


def runs(sizes: np.ndarray, data: np.ndarray, noise: float, seed: int) -> pd.DataFrame:
    """Runs of a planted law, each with its own noise."""
    losses = E + A * sizes**-ALPHA + B * data**-BETA
    noisy = losses * np.exp(np.random.default_rng(seed).normal(0, noise, len(sizes)))
    names = [f"row {index}" for index in range(len(sizes))]
    return pd.DataFrame({"variant": "all", "run": names, "N": sizes, "size": sizes, "D": data, "loss": noisy})


def test_intervals_of_exponents_cover_the_planted_law(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_laws, "resampled_weights", partial(resampled_weights, resamples=300))
    sizes, data = (part.ravel() for part in np.meshgrid(np.geomspace(5e7, 1e10, 6), np.geomspace(1e9, 3e11, 7)))
    hits = []
    for seed in range(STUDIES):
        law = run_laws.fit_run_law(runs(sizes, data, 0.003, seed), surface("N", "D"), huber=None, level=0.9)
        ends = {name: number.estimate for name, number in law.numbers.items()}
        hits.append([ends[name].contains(truth) for name, truth in (("alpha", ALPHA), ("beta", BETA), ("E", E))])
    covered = np.mean(hits, axis=0)
    assert ((covered >= LOW) & (covered <= HIGH)).all(), covered


def test_intervals_of_the_best_size_s_exponent_cover_at_given_budgets() -> None:
    budgets = np.repeat(np.geomspace(1e19, 1e22, 4), 6)
    best = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)) * (budgets / 6) ** BEST_SIZE
    sizes = best * np.tile(np.geomspace(1 / 4, 4, 6), 4)
    hits = []
    for seed in range(STUDIES):
        points = runs(sizes, budgets / 6 / sizes, 0.002, seed).assign(budget=budgets).drop(columns="D")
        found = analyze_runs(points, level=0.9)
        assert found is not None
        hits.append(found.best_size.estimate.contains(BEST_SIZE))
    assert LOW <= np.mean(hits) <= HIGH, np.mean(hits)
