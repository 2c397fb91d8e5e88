"""How many seeds a paired comparison needs.

The power of Student's t test follows from the noncentral t distribution. A test that is resolved in the wrong direction
does not count as one that found the difference.
"""

from math import ceil, inf, isfinite, isnan, sqrt

from scipy.special import nctdtr, ndtri, stdtrit

MANY = 10_000
"""Seeds above which the normal distribution is as good as the noncentral t."""
PRECISION = 1e-10
"""Of a noncentrality that is searched for."""


def seeds_needed(difference: float, deviation: float, power: float = 0.8, confidence: float = 0.95) -> int:
    """The smallest number of seeds with which a difference is resolved with the probability `power`.

    Args:
        difference: true difference, of either sign.
        deviation: standard deviation of the paired differences over seeds.
        power: probability that the interval excludes zero, between 0 and 1.
        confidence: confidence of the interval. For a study that looks several times, 1 minus the level of its last look
            gives the seeds of that look.

    Returns:
        At least 2.

    Raises:
        ValueError: the difference is 0 or not finite, the deviation is negative or not finite, or a probability is not
            between 0 and 1.
    """
    _check(deviation, power, confidence)
    if difference == 0 or not isfinite(difference):
        raise ValueError(f"a number of seeds needs a difference that is finite and not 0, not {difference}")
    if deviation == 0:
        return 2
    effect = abs(difference) / deviation
    # The normal approximation is a lower bound: Student's t needs a few more.
    normal = ceil((float(ndtri((1 + confidence) / 2) + ndtri(power)) / effect) ** 2)
    if normal > MANY:
        return normal
    seeds = max(2, normal)
    while _power(effect * sqrt(seeds), seeds, confidence) < power:
        seeds += 1
    return seeds


def resolvable(seeds: int, deviation: float, power: float = 0.8, confidence: float = 0.95) -> float:
    """The smallest difference that some seeds resolve with the probability `power`.

    Args:
        seeds: number of seeds.
        deviation: standard deviation of the paired differences over seeds.
        power: probability that the interval excludes zero, between 0 and 1.
        confidence: confidence of the interval.

    Returns:
        A difference, not negative; infinite for fewer than two seeds, which resolve nothing.

    Raises:
        ValueError: the seeds or the deviation are negative, the deviation is not finite, or a probability is not
            between 0 and 1.
    """
    _check(deviation, power, confidence)
    if seeds < 0:
        raise ValueError(f"seeds must not be negative, not {seeds}")
    if seeds < 2:
        return inf
    if _power(0.0, seeds, confidence) >= power:
        return 0.0
    if seeds > MANY:
        noncentrality = float(ndtri((1 + confidence) / 2) + ndtri(power))
    else:
        # By halves: scipy.optimize would take longer to import.
        noncentrality, highest = 0.0, 2.0
        while _power(highest, seeds, confidence) < power:
            highest *= 2
        while highest - noncentrality > PRECISION:
            middle = (noncentrality + highest) / 2
            noncentrality, highest = (
                (middle, highest) if _power(middle, seeds, confidence) < power else (noncentrality, middle)
            )
    return noncentrality * deviation / sqrt(seeds)


def _power(noncentrality: float, seeds: int, confidence: float) -> float:
    """Probability that the interval lies above zero."""
    return 1 - float(nctdtr(seeds - 1, noncentrality, stdtrit(seeds - 1, (1 + confidence) / 2)))


def _check(deviation: float, power: float, confidence: float) -> None:
    if isnan(deviation) or not 0 <= deviation < inf:
        raise ValueError(f"a deviation must be finite and not negative, not {deviation}")
    for name, probability in (("power", power), ("confidence", confidence)):
        if not 0 < probability < 1:
            raise ValueError(f"{name} must lie between 0 and 1, not {probability}")
