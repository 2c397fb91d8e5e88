"""The primary comparison, seed by seed."""

from math import inf, nan
from typing import Any

import pytest

from lina_lab.config.verdict import ContrastTerm
from lina_lab.decisions.contrast import contrast_values

SUBTRACTION, DIVISION = {"normalization": "subtraction", "dim": 64}, {"normalization": "division", "dim": 64}
TERMS = [ContrastTerm(values=SUBTRACTION, weight=1.0), ContrastTerm(values=DIVISION, weight=-1.0)]


def test_a_difference_is_taken_seed_by_seed_in_the_order_of_the_seeds() -> None:
    cells = [(DIVISION, 1, 0.5), (DIVISION, 0, 0.4), (SUBTRACTION, 0, 0.7), (SUBTRACTION, 1, 0.6)]
    values = contrast_values(TERMS, cells)
    assert list(values) == [0, 1]
    assert values == pytest.approx({0: 0.3, 1: 0.1})


def test_growth_adds_four_losses() -> None:
    terms = [
        ContrastTerm(values={"v": v, "dim": dim}, weight=weight)
        for v, dim, weight in (("a", 64, 1.0), ("b", 64, -1.0), ("a", 16, -1.0), ("b", 16, 1.0))
    ]
    losses = {("a", 64): 1.0, ("b", 64): 0.7, ("a", 16): 2.0, ("b", 16): 1.9}
    cells = [({"v": v, "dim": dim}, 3, loss) for (v, dim), loss in losses.items()]
    assert contrast_values(terms, cells) == pytest.approx({3: 0.2})


def test_seeds_with_a_missing_or_diverged_loss_are_left_out() -> None:
    cells = [(DIVISION, seed, 0.5) for seed in range(5)]
    cells += [(SUBTRACTION, 0, 0.7), (SUBTRACTION, 1, inf), (SUBTRACTION, 2, nan), (SUBTRACTION, 4, 0.6)]
    assert list(contrast_values(TERMS, cells)) == [0, 4]


def test_other_cells_do_not_count_and_other_fields_do_not_matter() -> None:
    cells: list[tuple[dict[str, Any], int, float]] = [
        ({**DIVISION, "lr": 0.1}, 0, 0.4),
        ({**SUBTRACTION, "lr": 0.2}, 0, 0.5),
        ({**DIVISION, "dim": 16}, 0, 9.0),
        ({"normalization": "subtraction"}, 0, 9.0),
    ]
    assert contrast_values(TERMS, cells) == pytest.approx({0: 0.1})


def test_values_are_compared_as_they_are() -> None:
    terms = [ContrastTerm(values={"kernel": None, "sizes": [8, 8]}, weight=2.0)]
    cells = [({"kernel": None, "sizes": [8, 8]}, 0, 0.5), ({"kernel": "none", "sizes": [8, 8]}, 1, 0.5)]
    assert contrast_values(terms, cells) == {0: 1.0}


def test_without_cells_there_are_no_values() -> None:
    assert contrast_values(TERMS, []) == {}


def test_two_cells_of_one_seed_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^two cells of seed 0 have {'normalization': 'division', 'dim': 64}$"):
        contrast_values(TERMS, [(DIVISION, 0, 0.5), (DIVISION, 0, 0.6)])


def test_a_comparison_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a comparison needs at least one term$"):
        contrast_values([], [])
