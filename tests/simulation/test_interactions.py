"""Interactions between tasks whose losses have different units: the logarithm keeps its error rate."""

from typing import Any, Literal

import numpy as np
import pytest

from lina_lab.config.primary import ContrastTerm
from lina_lab.decisions.contrast import contrast
from lina_lab.decisions.power import resolvable
from lina_lab.decisions.sequential import looks, mean_interval, sequential_interval

STUDIES = 2000
UNITS = {"classification": 0.5, "generation": 0.03}
TASKS = tuple(UNITS)


def terms(scale: Literal["linear", "log"]) -> list[ContrastTerm]:
    return [
        ContrastTerm(values={"v": v, "task": task}, weight=sign * side, scale=scale)
        for task, sign in zip(TASKS, (1.0, -1.0), strict=True)
        for v, side in (("subtraction", 1.0), ("division", -1.0))
    ]


def cells(rng: np.random.Generator, seeds: int, effect: dict[str, float]) -> list[tuple[dict[str, Any], int, float]]:
    """Losses: a unit of the task, an effect of the variant, noise of the seed that variants share, and noise of their
    own."""
    found = []
    for seed in range(seeds):
        for task, unit in UNITS.items():
            shared = rng.normal(0, 0.2)
            for v in ("subtraction", "division"):
                factor = effect[task] if v == "subtraction" else 1.0
                found.append(({"v": v, "task": task}, seed, unit * factor * np.exp(shared + rng.normal(0, 0.05))))
    return found


def share_without_zero(scale: Literal["linear", "log"], seeds: int, effect: dict[str, float]) -> float:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(STUDIES):
        found = mean_interval(list(contrast(terms(scale), cells(rng, seeds, effect)).values.values()))
        hits += not found.low <= 0 <= found.high
    return hits / STUDIES


@pytest.mark.simulation
@pytest.mark.parametrize("seeds", [3, 8])
def test_without_an_interaction_the_interval_of_logarithms_leaves_zero_out_in_one_study_of_twenty(seeds: int) -> None:
    """Subtraction has 1.2 times the loss in both tasks, whatever their units."""
    assert 0.035 < share_without_zero("log", seeds, dict.fromkeys(TASKS, 1.2)) < 0.065


@pytest.mark.simulation
def test_differences_of_losses_would_find_an_interaction_in_nearly_every_such_study() -> None:
    assert share_without_zero("linear", 8, dict.fromkeys(TASKS, 1.2)) > 0.9


@pytest.mark.simulation
def test_an_interaction_is_found_with_the_power_that_the_report_promises() -> None:
    """Four noises of 0.05 make a deviation of 0.1 over seeds."""
    ratio = float(np.exp(resolvable(8, 0.1)))
    assert 0.77 < share_without_zero("log", 8, {"classification": 1.1 * ratio, "generation": 1.1}) < 0.83


@pytest.mark.simulation
def test_looking_again_and_again_keeps_the_error_rate() -> None:
    rng, wrong, planned = np.random.default_rng(1), 0, looks(3, 9, 2)
    for _ in range(STUDIES):
        every = list(contrast(terms("log"), cells(rng, 9, dict.fromkeys(TASKS, 1.2))).values.values())
        seen = (sequential_interval(every[:count], planned) for count in planned)
        wrong += any(not found.low <= 0 <= found.high for found in seen)
    assert wrong / STUDIES < 0.06
