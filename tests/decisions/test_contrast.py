"""The primary comparison, seed by seed."""

from math import exp, inf, log, nan
from typing import Any

import pytest

from lina_lab.config.primary import ContrastTerm
from lina_lab.decisions.contrast import contrast, widened_contrast
from lina_lab.decisions.sequential import MeanInterval

SUBTRACTION, DIVISION = {"normalization": "subtraction", "dim": 64}, {"normalization": "division", "dim": 64}
TERMS = [ContrastTerm(values=SUBTRACTION, weight=1.0), ContrastTerm(values=DIVISION, weight=-1.0)]


def test_a_difference_is_taken_seed_by_seed_in_the_order_of_the_seeds() -> None:
    cells = [(DIVISION, 1, 0.5), (DIVISION, 0, 0.4), (SUBTRACTION, 0, 0.7), (SUBTRACTION, 1, 0.6)]
    values = contrast(TERMS, cells).values
    assert list(values) == [0, 1]
    assert values == pytest.approx({0: 0.3, 1: 0.1})


def test_growth_adds_four_losses() -> None:
    terms = [
        ContrastTerm(values={"v": v, "dim": dim}, weight=weight)
        for v, dim, weight in (("a", 64, 1.0), ("b", 64, -1.0), ("a", 16, -1.0), ("b", 16, 1.0))
    ]
    losses = {("a", 64): 1.0, ("b", 64): 0.7, ("a", 16): 2.0, ("b", 16): 1.9}
    cells = [({"v": v, "dim": dim}, 3, loss) for (v, dim), loss in losses.items()]
    assert contrast(terms, cells).values == pytest.approx({3: 0.2})


def test_seeds_with_a_missing_or_diverged_loss_are_left_out() -> None:
    cells = [(DIVISION, seed, 0.5) for seed in range(5)]
    cells += [(SUBTRACTION, 0, 0.7), (SUBTRACTION, 1, inf), (SUBTRACTION, 2, nan), (SUBTRACTION, 4, 0.6)]
    assert list(contrast(TERMS, cells).values) == [0, 4]


def test_other_cells_do_not_count_and_other_fields_do_not_matter() -> None:
    cells: list[tuple[dict[str, Any], int, float]] = [
        ({**DIVISION, "lr": 0.1}, 0, 0.4),
        ({**SUBTRACTION, "lr": 0.2}, 0, 0.5),
        ({**DIVISION, "dim": 16}, 0, 9.0),
        ({"normalization": "subtraction"}, 0, 9.0),
    ]
    assert contrast(TERMS, cells).values == pytest.approx({0: 0.1})


def test_values_are_compared_as_they_are() -> None:
    terms = [ContrastTerm(values={"kernel": None, "sizes": [8, 8]}, weight=2.0)]
    cells = [({"kernel": None, "sizes": [8, 8]}, 0, 0.5), ({"kernel": "none", "sizes": [8, 8]}, 1, 0.5)]
    assert contrast(terms, cells).values == {0: 1.0}


def test_without_cells_there_are_no_values() -> None:
    assert contrast(TERMS, []).values == {}


def test_two_cells_of_one_seed_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^two cells of seed 0 have {'normalization': 'division', 'dim': 64}$"):
        contrast(TERMS, [(DIVISION, 0, 0.5), (DIVISION, 0, 0.6)])


def test_a_comparison_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a comparison needs at least one term$"):
        contrast([], [])


def crossed(scale: Any = "log") -> list[ContrastTerm]:
    """The interaction of a and b with two tasks."""
    return [
        ContrastTerm(values={"v": v, "task": task}, weight=sign * side, scale=scale)
        for task, sign in (("classification", 1.0), ("generation", -1.0))
        for v, side in (("a", 1.0), ("b", -1.0))
    ]


def cells_of(losses: dict[tuple[str, str], float], seed: int = 0) -> list[tuple[dict[str, Any], int, float]]:
    return [({"v": v, "task": task}, seed, loss) for (v, task), loss in losses.items()]


def test_an_interaction_of_logarithms_is_the_logarithm_of_a_ratio_of_ratios() -> None:
    losses = {("a", "classification"): 0.6, ("b", "classification"): 0.5}
    losses |= {("a", "generation"): 0.2, ("b", "generation"): 0.25}
    found = contrast(crossed(), cells_of(losses))
    assert found.values == pytest.approx({0: log((0.6 / 0.5) / (0.2 / 0.25))})
    assert found.levels == pytest.approx((0.6, 0.5, 0.2, 0.25))


def test_an_interaction_of_logarithms_is_the_same_in_every_unit_of_each_task_s_loss() -> None:
    losses = {("a", "classification"): 0.6, ("b", "classification"): 0.5}
    losses |= {("a", "generation"): 0.2, ("b", "generation"): 0.25}
    bits = {key: loss / log(2) if key[1] == "classification" else 7 * loss for key, loss in losses.items()}
    for scale, same in (("log", True), ("linear", False)):
        first, second = (contrast(crossed(scale), cells_of(each)).values[0] for each in (losses, bits))
        assert (first == pytest.approx(second)) == same


@pytest.mark.parametrize("loss", [0.0, -0.1])
def test_a_logarithm_of_no_positive_value_is_refused(loss: float) -> None:
    losses = {(v, task): 0.5 for v in "ab" for task in ("classification", "generation")} | {("a", "generation"): loss}
    with pytest.raises(ValueError, match=r"^scale=log compares logarithms, and the value of seed 0 with .* is"):
        contrast(crossed(), cells_of(losses))


def test_the_interval_at_the_best_values_holds_all_that_each_regret_allows() -> None:
    """Each loss of minimization may be lower by its regret, each score of maximization higher; on both scales."""
    levels, regrets = (0.6, 0.5, 0.2, 0.25), (0.05, 0.01, 0.02, 0.0)
    none = MeanInterval(value=0.0, low=0.0, high=0.0, level=0.95, seeds=3)
    for direction, sign in (("minimize", -1), ("maximize", 1)):
        for scale, scaled in (("linear", lambda x: x), ("log", log)):
            terms = crossed(scale)
            wide = widened_contrast(none, terms, levels, regrets, direction)
            moves = [
                scaled(level + sign * regret) - scaled(level) for level, regret in zip(levels, regrets, strict=True)
            ]
            ends = [term.weight * move for term, move in zip(terms, moves, strict=True)]
            assert wide.low == pytest.approx(sum(end for end in ends if end < 0))
            assert wide.high == pytest.approx(sum(end for end in ends if end > 0))


def test_a_regret_as_large_as_the_loss_bounds_no_logarithm_and_an_unknown_one_widens_nothing() -> None:
    none = MeanInterval(value=0.0, low=0.0, high=0.0, level=0.95, seeds=3)
    wide = widened_contrast(none, crossed()[:2], (0.6, 0.5), (0.6, nan), "minimize")
    assert (wide.low, wide.high) == (-inf, 0.0)
    assert exp(wide.low) == 0
