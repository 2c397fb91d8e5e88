"""What an interval of a difference says."""

from enum import StrEnum
from math import isnan

from lina_lab.decisions.sequential import MeanInterval


class Outcome(StrEnum):
    """What is known of a difference."""

    LOWER = "lower"
    """The interval lies below zero."""
    HIGHER = "higher"
    """The interval lies above zero."""
    EQUIVALENT = "equivalent"
    """The interval includes zero and lies within the margin."""
    UNDECIDED = "undecided"
    """The interval includes zero and reaches beyond the margin, or there is no margin."""
    NO_INTERVAL = "no_interval"
    """There is no interval: see `MeanInterval.low`."""


def judge(interval: MeanInterval, margin: float | None = None) -> Outcome:
    """What an interval of a difference says.

    A difference can be resolved and yet be too small to matter: then the outcome is lower or higher, and `within` is
    true.

    Args:
        interval: interval of the difference.
        margin: the difference, in either direction, below which variants are equivalent; None: not judged.

    Raises:
        ValueError: the margin is not positive.
    """
    inside = margin is not None and within(interval, margin)
    if isnan(interval.low) or isnan(interval.high):
        return Outcome.NO_INTERVAL
    if interval.low > 0:
        return Outcome.HIGHER
    if interval.high < 0:
        return Outcome.LOWER
    return Outcome.EQUIVALENT if inside else Outcome.UNDECIDED


def within(interval: MeanInterval, margin: float) -> bool:
    """Whether an interval lies strictly between minus and plus the margin. An interval that is NaN does not.

    Raises:
        ValueError: the margin is not positive.
    """
    if not margin > 0:
        raise ValueError(f"margin must be positive, not {margin}")
    return -margin < interval.low and interval.high < margin
