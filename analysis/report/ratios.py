"""The answer of a comparison of ratios, or of differences between tasks, in sentences."""

import math

from lina_lab.decisions.sequential import MeanInterval
from lina_lab.decisions.verdicts import Outcome

from ..stats.verdicts import PrimaryVerdict
from .metric_names import metric_name
from .tables import count, plain, signed

SAME = {"linear": "zero", "log": "one"}
"""Scale -> the value of an interaction, or of a ratio, where nothing differs."""


def ratio_sentences(verdict: PrimaryVerdict, how: str) -> list[str]:
    """Return the answer of an interaction, or of another comparison on the log scale, and the parts of an interaction.

    Args:
        verdict: it has an interval.
        how: how the interval was made.
    """
    ends = f"{_ends(verdict.interval, verdict)}, {count(verdict.seeds, 'seed')}; {how}"
    shown = f"{value_text(verdict.interval.value, verdict)} ({ends})"
    subject = _subject(verdict)
    inside = f"the interval includes {SAME[verdict.scale]}"
    if verdict.outcome is Outcome.EQUIVALENT:
        inside = f"the interval lies within ±{plain(verdict.margin)}{unit(verdict)}"
    answer = {
        Outcome.LOWER: f"Answer: lower, {subject} {shown}.",
        Outcome.HIGHER: f"Answer: higher, {subject} {shown}.",
        Outcome.EQUIVALENT: f"Answer: equivalent, {subject} {shown}: {inside}.",
    }.get(verdict.outcome, f"Answer: undecided, {subject} {shown}: {inside}.")
    return [answer, *_sides(verdict)]


def unit(verdict: PrimaryVerdict) -> str:
    """Return what to say after a number that is not a ratio, such as a margin."""
    return " in natural logarithms" if verdict.scale == "log" else ""


def _subject(verdict: PrimaryVerdict) -> str:
    metric, (treatment, baseline) = metric_name(verdict.metric), verdict.names
    if verdict.quantity != "interaction":
        change = " changes with size by a factor of" if verdict.quantity == "growth" else " is"
        return f"the {metric} of {treatment} over that of {baseline}{change}"
    first, second = (side.name for side in verdict.sides)
    if verdict.scale == "linear":
        return f"the difference of {treatment} and {baseline} in {metric} is larger with {first} than with {second} by"
    return f"the ratio of {metric}, {treatment} over {baseline}, with {first} over the same with {second} is"


def _sides(verdict: PrimaryVerdict) -> list[str]:
    if not verdict.sides:
        return []
    what = "ratio" if verdict.scale == "log" else "difference"
    parts = [
        f"{value_text(side.interval.value, verdict)} with {side.name} ({_ends(side.interval, verdict)})"
        for side in verdict.sides
    ]
    treatment, baseline = verdict.names
    sign = "over" if verdict.scale == "log" else "minus"
    return [f"The {what} itself, {treatment} {sign} {baseline}: {' and '.join(parts)}."]


def value_text(value: float, verdict: PrimaryVerdict) -> str:
    """Return a value of the comparison: a ratio on the log scale, otherwise a difference."""
    return f"{math.exp(value):.3f}" if verdict.scale == "log" else signed(value)


def _ends(interval: MeanInterval, verdict: PrimaryVerdict) -> str:
    low, high = (value_text(end, verdict) for end in (interval.low, interval.high))
    return f"95% CI {low} to {high}"


def found_text(verdict: PrimaryVerdict) -> str:
    """Return the value of a comparison with its interval, such as "ratio 1.13 (95% CI 1.05 to 1.22)"."""
    word = "ratio " if verdict.scale == "log" else ""
    return f"{word}{value_text(verdict.interval.value, verdict)} ({_ends(verdict.interval, verdict)})"
