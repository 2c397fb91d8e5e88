"""What an interval says."""

from math import nan

import pytest

from lina_lab.decisions.sequential import MeanInterval
from lina_lab.decisions.verdicts import Outcome, judge, within


def interval(low: float, high: float) -> MeanInterval:
    return MeanInterval((low + high) / 2, low, high, 0.95, 4)


@pytest.mark.parametrize(
    ("low", "high", "margin", "outcome"),
    [
        (0.01, 0.03, None, Outcome.HIGHER),
        (-0.03, -0.01, None, Outcome.LOWER),
        (-0.01, 0.03, None, Outcome.UNDECIDED),
        (0.0, 0.03, None, Outcome.UNDECIDED),
        (-0.01, 0.03, 0.02, Outcome.UNDECIDED),
        (-0.01, 0.03, 0.03, Outcome.UNDECIDED),
        (-0.01, 0.03, 0.04, Outcome.EQUIVALENT),
        (0.01, 0.03, 0.04, Outcome.HIGHER),
        (nan, nan, 0.04, Outcome.NO_INTERVAL),
        (nan, nan, None, Outcome.NO_INTERVAL),
    ],
)
def test_an_interval_decides_by_zero_and_then_by_the_margin(
    low: float, high: float, margin: float | None, outcome: Outcome
) -> None:
    assert judge(interval(low, high), margin) is outcome


def test_a_resolved_difference_can_be_within_the_margin_as_well() -> None:
    assert within(interval(0.01, 0.03), 0.04)
    assert not within(interval(0.01, 0.03), 0.02)
    assert not within(interval(nan, nan), 1.0)


@pytest.mark.parametrize("margin", [0.0, -0.1, nan])
def test_a_margin_that_is_not_positive_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match=rf"^margin must be positive, not {margin}$"):
        judge(interval(nan, nan), margin)
