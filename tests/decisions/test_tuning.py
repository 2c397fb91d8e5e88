"""The choice of a tuned value."""

from math import exp, inf, isnan, log, nan

import numpy as np
import pytest

from lina_lab.decisions.sequential import MeanInterval
from lina_lab.decisions.tuning import ChoiceStatus, choose, choose_all, extended, widened

GRID = (0.001, 0.002, 0.004, 0.008, 0.016)


def parabola(best: float, curvature: float = 0.05, values: tuple[float, ...] = GRID) -> dict[float, list[float]]:
    """Losses of two seeds, without noise."""
    return {
        value: [0.6 + curvature * log(value / best) ** 2, 0.7 + curvature * log(value / best) ** 2] for value in values
    }


@pytest.mark.parametrize("best", [0.0025, 0.004, 0.00529])
def test_the_vertex_of_a_parabola_is_found_between_the_values_tried(best: float) -> None:
    choice = choose(parabola(best))
    assert choice.status is ChoiceStatus.OK
    assert choice.value == pytest.approx(best, rel=0.005)
    assert choice.curvature == pytest.approx(0.05, rel=1e-3)
    assert choice.log_deviation == pytest.approx(0, abs=1e-6)
    assert 0 <= choice.regret < 1e-5
    assert choice.seeds == 2


def test_a_curve_that_is_steeper_on_one_side_has_its_own_minimum() -> None:
    losses = {value: [exp(x := log(value / 0.005)) - x + seed for seed in (0.0, 0.1)] for value in GRID}
    assert choose(losses).value == pytest.approx(0.005, rel=0.1)


def test_three_values_are_enough() -> None:
    assert choose(parabola(0.0045, values=GRID[1:4])).value == pytest.approx(0.0045, rel=0.005)


def test_the_choice_has_three_significant_digits() -> None:
    assert choose(parabola(0.0047123)).value == 0.00471


def test_a_choice_is_not_rounded_to_beyond_the_values_around_it() -> None:
    assert choose({0.999: [2.0], 0.9999: [1.0], 0.99999: [1.0001]}).value == 0.9999


def test_a_value_that_was_chosen_before_stays_with_its_own_regret() -> None:
    tables = [parabola(0.0025), parabola(0.004)]
    own, (kept, other) = choose_all(tables), choose_all(tables, kept=[0.003, None])
    assert (kept.value, kept.status) == (0.003, ChoiceStatus.OK)
    assert kept.regret == pytest.approx(0.05 * log(0.003 / 0.0025) ** 2, rel=1e-3)
    assert own[0].regret < 1e-5
    assert other == own[1]


def test_where_large_objectives_are_good_the_curve_is_turned_over() -> None:
    losses = {value: [-loss for loss in seeds] for value, seeds in parabola(0.005).items()}
    choice, mirrored = choose(losses, "maximize"), choose(parabola(0.005))
    assert choice.value == mirrored.value
    assert choice.curvature == pytest.approx(-mirrored.curvature)
    assert choice.regret == pytest.approx(mirrored.regret)


def test_what_all_losses_of_a_seed_share_does_not_matter() -> None:
    losses = {
        v: [a, b + n] for n, (v, (a, b)) in zip([0.01, -0.02, 0.01, 0.0, 0.02], parabola(0.005).items(), strict=True)
    }
    shifted = {value: [first, second + 10] for value, (first, second) in losses.items()}
    assert choose(losses).regret == pytest.approx(choose(shifted).regret)
    assert choose(losses).regret > 1e-3


def test_the_order_of_the_values_does_not_matter() -> None:
    assert choose(dict(reversed(parabola(0.005).items()))) == choose(parabola(0.005))


@pytest.mark.parametrize(
    ("best", "status", "value"), [(0.0001, ChoiceStatus.EDGE_LOW, 0.001), (0.1, ChoiceStatus.EDGE_HIGH, 0.016)]
)
def test_a_best_value_at_the_edge_is_named_and_not_ok(best: float, status: ChoiceStatus, value: float) -> None:
    choice = choose(parabola(best))
    assert (choice.value, choice.status, choice.seeds) == (value, status, 2)
    assert isnan(choice.regret)


def test_with_two_values_the_best_is_always_at_an_edge() -> None:
    assert choose({0.1: [1.0], 0.2: [2.0]}).status is ChoiceStatus.EDGE_LOW


def test_next_to_a_value_that_diverged_the_best_one_tried_is_taken() -> None:
    losses = {0.001: [1.0, 1.1], 0.002: [0.5, 0.62], 0.004: [0.4, 0.5], 0.008: [0.7, inf]}
    choice = choose(losses)
    assert (choice.value, choice.status) == (0.004, ChoiceStatus.OK)
    assert isnan(choice.curvature)
    # The next best is 0.11 worse on average; noise of 2 degrees of freedom does not exclude that it is better.
    rows = np.array([losses[value] for value in (0.002, 0.004)])
    assert choice.regret >= 0
    assert choice.regret < np.ptp(rows)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("diverged", [inf, -inf])
def test_diverging_is_worse_than_any_number_in_either_direction(diverged: float, direction: str) -> None:
    sign = 1 if direction == "minimize" else -1
    losses = {0.1: [sign * 2.0], 0.2: [sign * 1.0], 0.4: [diverged]}
    assert choose(losses, direction).value == 0.2  # type: ignore[arg-type]


def test_a_far_neighbor_that_diverged_is_left_out_of_the_curve() -> None:
    losses = parabola(0.003)
    losses[0.016] = [inf, 0.9]
    assert choose(losses).value == pytest.approx(0.003, rel=0.005)


def test_with_one_seed_and_few_values_the_regret_is_not_known() -> None:
    choice = choose({value: [seeds[0]] for value, seeds in parabola(0.0025, values=GRID[:3]).items()})
    assert choice.value == pytest.approx(0.0025, rel=0.005)
    assert isnan(choice.regret)
    assert isnan(choose({0.1: [2.0], 0.2: [1.0], 0.4: [inf]}).regret)


def test_one_seed_and_four_values_bound_the_regret() -> None:
    noise = [0.01, -0.01, 0.005, 0.0]
    losses = {v: [s[0] + n] for n, (v, s) in zip(noise, parabola(0.003, values=GRID[:4]).items(), strict=True)}
    assert choose(losses).regret > 0


def test_a_value_that_racing_gave_up_is_compared_on_the_seeds_that_it_has() -> None:
    losses = {value: [first, first + 1] for value, (first, _) in parabola(0.005).items()}
    losses[0.008] = [losses[0.008][0], nan]  # its mean would be half a unit below the others'
    losses[0.016] = [nan, losses[0.016][1]]
    assert choose(losses).value == pytest.approx(0.005, rel=0.005)


def test_a_choice_needs_a_loss_of_every_value_and_all_losses_of_one() -> None:
    assert choose({0.1: [1.0], 0.2: [nan], 0.4: [1.0]}).status is ChoiceStatus.INCOMPLETE
    assert choose({0.1: [1.0, nan], 0.2: [nan, 1.0], 0.4: [1.0, nan]}).status is ChoiceStatus.INCOMPLETE
    assert choose({0.1: [], 0.2: [], 0.4: []}).status is ChoiceStatus.INCOMPLETE
    assert choose({0.1: [nan], 0.2: [1.0], 0.4: [2.0]}).value is None


def test_without_a_difference_or_a_finite_loss_there_is_no_minimum() -> None:
    assert choose({0.1: [1.0], 0.2: [1.0], 0.4: [1.0]}).status is ChoiceStatus.NO_MINIMUM
    assert choose({0.1: [inf], 0.2: [inf], 0.4: [inf]}).status is ChoiceStatus.NO_MINIMUM


def test_a_curve_that_opens_downwards_gives_the_best_value_tried() -> None:
    losses = {0.001: [0.0, 0.1], 0.002: [5.0, 5.2], 0.004: [-1.0, -0.9], 0.008: [5.0, 5.0], 0.016: [0.0, 0.1]}
    choice = choose(losses)
    assert (choice.value, choice.status) == (0.004, ChoiceStatus.OK)
    assert isnan(choice.curvature)
    assert choice.regret == 0


def test_values_close_together_are_fitted_with_others_around() -> None:
    values = (0.001, 0.002, 0.0039, 0.004, 0.0041, 0.00415, 0.008, 0.016)
    noise = [0.0, 0.0, 0.01, -0.02, 0.01, 0.0, 0.0, 0.0]
    losses = {v: [s[0] + n, s[1]] for n, (v, s) in zip(noise, parabola(0.005, values=values).items(), strict=True)}
    choice = choose(losses)
    assert choice.value == pytest.approx(0.005, rel=0.15)
    assert choice.regret < 0.02


@pytest.mark.parametrize(
    "losses", [{}, {0.1: [1.0]}, {0.0: [1.0], 0.1: [2.0]}, {-1.0: [1.0], 0.1: [2.0]}, {0.1: [1.0], inf: [2.0]}]
)
def test_values_among_which_nothing_can_be_chosen_are_refused(losses: dict[float, list[float]]) -> None:
    with pytest.raises(ValueError, match=r"^a choice needs two or more values, positive and finite, not "):
        choose(losses)


def test_values_with_different_numbers_of_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^every value needs the same seeds .* not \[1, 2\] of them$"):
        choose({0.1: [1.0], 0.2: [1.0, 2.0]})


def test_a_grid_grows_at_its_edge_by_the_ratio_there() -> None:
    assert extended(GRID, ChoiceStatus.EDGE_HIGH) == 0.032
    assert extended(GRID, ChoiceStatus.EDGE_LOW) == 0.0005
    assert extended([0.3, 0.1, 1.0], ChoiceStatus.EDGE_HIGH) == 3.33


def test_a_grid_that_cannot_grow_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a grid grows from two or more positive values, not \[0\.1\]$"):
        extended([0.1], ChoiceStatus.EDGE_LOW)
    with pytest.raises(ValueError, match=r"^a grid grows at an edge, and the status is ok$"):
        extended(GRID, ChoiceStatus.OK)


def test_an_interval_is_widened_on_the_side_where_each_variant_may_be_better() -> None:
    interval = MeanInterval(0.1, 0.0, 0.2, 0.95, 8)
    lower, higher = widened(interval, 0.03, 0.01), widened(interval, 0.03, 0.01, "maximize")
    assert (lower.low, lower.high) == pytest.approx((-0.03, 0.21))
    assert (higher.low, higher.high) == pytest.approx((-0.01, 0.23))
    assert (lower.value, lower.level, lower.seeds) == (0.1, 0.95, 8)


def test_a_regret_that_is_not_known_widens_nothing_and_no_interval_stays_none() -> None:
    interval = MeanInterval(0.1, 0.0, 0.2, 0.95, 8)
    assert widened(interval, nan, 0.0) == interval
    assert isnan(widened(MeanInterval(0.1, nan, nan, 0.95, 1), 0.1, 0.1).low)
    assert widened(interval, 0.0, inf).high == inf


def test_a_negative_regret_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a regret must not be negative, not -0.1$"):
        widened(MeanInterval(0.1, 0.0, 0.2, 0.95, 8), -0.1, 0.0)


def test_the_noise_is_pooled_over_losses_of_one_kind_alone() -> None:
    """Two tasks, the second with a hundred times the loss: pooled, its noise would drown the first one's."""
    generator = np.random.default_rng(0)

    def table(unit: float) -> dict[float, tuple[float, ...]]:
        return {
            rate: tuple(unit * (0.5 + log(rate / 0.004) ** 2 + generator.normal(0, 0.01)) for _ in range(3))
            for rate in (0.001, 0.002, 0.004, 0.008, 0.016)
        }

    small, large = [table(1.0) for _ in range(2)], [table(100.0) for _ in range(2)]
    together = choose_all([*small, *large], kinds=["generation"] * 2 + ["classification"] * 2)
    assert together == [*choose_all(small), *choose_all(large)]
    mixed = choose_all([*small, *large])
    assert mixed[0].regret > 10 * together[0].regret
