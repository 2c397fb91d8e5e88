"""Interactions between tasks whose losses have different units: the logarithm keeps its error rate."""

from typing import Any, Literal

import numpy as np
import pytest

from lina_lab.config.primary import ContrastTerm
from lina_lab.decisions.contrast import contrast, widened_contrast
from lina_lab.decisions.power import resolvable
from lina_lab.decisions.sequential import looks, mean_interval, sequential_interval
from lina_lab.decisions.tuning import Choice, ChoiceStatus, choose_all

pytestmark = pytest.mark.simulation
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


@pytest.mark.parametrize("seeds", [3, 8])
def test_without_an_interaction_the_interval_of_logarithms_leaves_zero_out_in_one_study_of_twenty(seeds: int) -> None:
    """Subtraction has 1.2 times the loss in both tasks, whatever their units."""
    assert 0.035 < share_without_zero("log", seeds, dict.fromkeys(TASKS, 1.2)) < 0.065


def test_differences_of_losses_would_find_an_interaction_in_nearly_every_such_study() -> None:
    assert share_without_zero("linear", 8, dict.fromkeys(TASKS, 1.2)) > 0.9


def test_an_interaction_is_found_with_the_power_that_the_report_promises() -> None:
    """Four noises of 0.05 make a deviation of 0.1 over seeds."""
    ratio = float(np.exp(resolvable(8, 0.1)))
    assert 0.77 < share_without_zero("log", 8, {"classification": 1.1 * ratio, "generation": 1.1}) < 0.83


def test_looking_again_and_again_keeps_the_error_rate() -> None:
    rng, wrong, planned = np.random.default_rng(1), 0, looks(3, 9, 2)
    for _ in range(STUDIES):
        every = list(contrast(terms("log"), cells(rng, 9, dict.fromkeys(TASKS, 1.2))).values.values())
        seen = (sequential_interval(every[:count], planned) for count in planned)
        wrong += any(not found.low <= 0 <= found.high for found in seen)
    assert wrong / STUDIES < 0.06


GRID = np.array([0.002, 0.004, 0.008, 0.016, 0.032])
CURVATURE = 0.2
"""Relative rise of the loss for a factor e between the rate and the best one: choices give away much."""


def tuned(rng: np.random.Generator) -> tuple[list[Choice], list[float]]:
    """The chosen rates of the four variants, and the logarithm of each one's best rate.

    Best rates differ between variants, so a loss at the chosen rate is above the best one by different amounts.
    """
    best = np.log(0.008) + rng.uniform(-0.35, 0.35, 4)
    units = [UNITS[term.values["task"]] for term in terms("log")]
    tables = []
    for unit, place in zip(units, best, strict=True):
        excess = CURVATURE * (np.log(GRID) - place) ** 2
        losses = unit * np.exp(excess[:, None] + rng.normal(0, 0.1, (len(GRID), 2)) + rng.normal(0, 0.2, 2))
        tables.append({float(rate): list(row) for rate, row in zip(GRID, losses, strict=True)})
    return choose_all(tables, kinds=[term.values["task"] for term in terms("log")]), list(best)


def test_the_interval_at_the_best_rates_holds_what_the_chosen_ones_give_away() -> None:
    """No variant is better at its own best rate. At the chosen ones they differ, which the plain interval finds."""
    rng, widened_misses, plain_misses, studies = np.random.default_rng(2), 0, 0, 600
    counted = 0
    for _ in range(studies):
        choices, best = tuned(rng)
        if any(one.status is not ChoiceStatus.OK or one.value is None for one in choices):
            continue
        counted += 1
        cells = []
        for seed in range(20):
            for term, one, place in zip(terms("log"), choices, best, strict=True):
                excess = CURVATURE * (np.log(one.value) - place) ** 2
                loss = UNITS[term.values["task"]] * np.exp(excess + rng.normal(0, 0.03))
                cells.append((dict(term.values), seed, float(loss)))
        found = contrast(terms("log"), cells)
        plain = mean_interval(list(found.values.values()))
        regrets = [one.regret for one in choices]
        wide = widened_contrast(plain, terms("log"), found.levels, regrets, "minimize")
        plain_misses += not plain.low <= 0 <= plain.high
        widened_misses += not wide.low <= 0 <= wide.high
    assert counted > 0.7 * studies
    assert plain_misses / counted > 0.1
    assert widened_misses / counted < 0.05
