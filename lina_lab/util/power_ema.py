"""Averages of weights by a power function of the step, and how one is a combination of others.

At step t such an average weighs the weights of step s by s^gamma, up to a factor. Its relative width is the standard
deviation of that profile over [0, t], divided by t. Source: Karras et al. 2024, "Analyzing and Improving the Training
Dynamics of Diffusion Models" (arXiv 2312.02696), section 3 and appendix C.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

WIDEST = 0.28
"""Relative widths are below this; that of the plain mean of all steps, gamma = 0, is 0.289."""
MISSED = 0.02
"""Largest share of a profile that a combination may miss, see `Combination.missed`. Rebuilt weights then differ from an
average that was tracked at that length by less than 1e-3 of their norm (tests/evaluation/test_posthoc.py)."""

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Profile:
    """The profile of an average at a step."""

    width: float
    """Relative width, in (0, WIDEST)."""
    step: int
    """Optimizer steps that the average has seen."""


@dataclass(frozen=True)
class Combination:
    """The combination of some averages that is closest to another average."""

    coefficients: tuple[float, ...]
    """One for each average; their sum is 1."""
    missed: float
    """Norm of the difference between the two profiles, as a share of the norm of the profile that is asked for."""


@lru_cache(maxsize=256)
def gamma_of(width: float) -> float:
    """The exponent of the power function whose profile has a relative width.

    The width is sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)), so gamma is the largest root of a cubic.

    Args:
        width: relative width, in (0, WIDEST).
    """
    ratio = width**-2
    return float(np.roots([1, 7, 16 - ratio, 12 - ratio]).real.max())


def decay_of(width: float, step: int) -> float:
    """What the update of a step keeps of the average: (1 - 1/step)^(gamma + 1).

    After it, the weights of step s count as much as the profile's integral from s - 1 to s.

    Args:
        width: relative width.
        step: number of the step, from 1.
    """
    return float((1.0 - 1.0 / step) ** (gamma_of(width) + 1.0))


def inner_products(ones: Sequence[Profile], others: Sequence[Profile]) -> Array:
    """The integrals of the products of profiles, each of which integrates to 1 over [0, its step].

    Returns:
        [len(ones), len(others)].
    """
    a, t = (
        np.array(values, float)[:, None] for values in zip(*((gamma_of(p.width), p.step) for p in ones), strict=True)
    )
    b, u = (
        np.array(values, float)[None] for values in zip(*((gamma_of(p.width), p.step) for p in others), strict=True)
    )
    # As logarithms: powers of a large step would overflow.
    powers = (a + b + 1) * np.log(np.minimum(t, u)) - (a + 1) * np.log(t) - (b + 1) * np.log(u)
    found: Array = (a + 1) * (b + 1) / (a + b + 1) * np.exp(powers)
    return found


@lru_cache(maxsize=1024)
def combine(known: tuple[Profile, ...], wanted: Profile) -> Combination:
    """The combination of averages whose profile is closest to that of another average, by least squares.

    Args:
        known: profiles of the averages that there are.
        wanted: the profile of the average that is asked for.
    """
    products, targets = inner_products(known, known), inner_products(known, [wanted])[:, 0]
    square = float(inner_products([wanted], [wanted])[0, 0])
    # Scaled to profiles of norm 1: those of early steps are far higher than those of late ones.
    norms = np.sqrt(products.diagonal())
    products, targets = products / np.outer(norms, norms), targets / norms
    # A Lagrange multiplier holds the sum of the coefficients at 1. Profiles of close steps are nearly the same, which
    # makes the system nearly singular: its smallest solution is taken.
    system = np.block([[products, 1 / norms[:, None]], [1 / norms[None], np.zeros((1, 1))]])
    found = np.linalg.lstsq(system, np.append(targets, 1.0), rcond=None)[0][:-1]
    difference = square - 2 * found @ targets + found @ products @ found
    coefficients = tuple(float(value) for value in found / norms)
    return Combination(coefficients=coefficients, missed=float(np.sqrt(max(difference, 0.0) / square)))


def refusal(known: tuple[Profile, ...], wanted: Profile) -> str | None:
    """Why an average cannot be rebuilt from others, as the end of a sentence; None: it can.

    Args:
        known: profiles of the averages that there are.
        wanted: the profile of the average that is asked for.
    """
    if not 0 < wanted.width < WIDEST:
        return f"is not a relative width between 0 and {WIDEST}"
    if (missed := combine(known, wanted).missed) <= MISSED:
        return None
    widths, steps = sorted({one.width for one in known}), len({one.step for one in known})
    listed = ", ".join(f"{width:g}" for width in widths)
    return (
        f"cannot be rebuilt from {steps} snapshot{'s' if steps > 1 else ''} of the profiles [{listed}]: the closest "
        f"combination misses {missed:.1%} of its profile, and {MISSED:.0%} are allowed"
    )
