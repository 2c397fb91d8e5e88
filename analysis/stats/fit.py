"""Fit scaling laws of loss against size and data.

A law is a sum of powers of its inputs, `L = E + A N^-alpha (+ B D^-beta)`, with or without the irreducible loss E, or a
line in the logarithm, `L = a + b log N`. Inputs are columns of a tidy table: parameters, images, FLOPs. Several
variants may share E, or E and the exponents; each has its own coefficients.

Variable projection: for given exponents the other parameters follow from non-negative least squares, so only exponents
are searched, from many starts (arXiv 2603.22339). All parameters are then polished together under a Huber loss of log
residuals (Hoffmann et al. 2022, arXiv 2203.15556; its replication, arXiv 2404.10102). Its delta follows the noise, so
that all points count; theirs, 1e-3, is least absolute deviations wherever the noise is larger. A fit that does not hold
is refused with a code and a sentence, see `Fit.refusal`.
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, least_squares, minimize_scalar, nnls
from scipy.special import erf

from .identifiability import not_identifiable, refused, usable
from .laws import HOFFMANN_DELTA, Fit, Pooling, ScalingLaw, free_parameters
from .status import FitStatus, Refusal

Array = NDArray[np.float64]

DEVIATIONS = 1.345
"""Delta in standard deviations of the noise: 95% efficiency if the noise is normal (Huber 1981)."""
SMALLEST_DELTA = 1e-7
EXPONENTS = (0.01, 3.0)
"""Bounds of an exponent. A fit that ends at a bound is refused."""
STARTS = np.geomspace(0.03, 2.0, 12)
KEPT_STARTS = 4
"""Number of the best starts that are polished."""
TOLERANCE, REFIT_TOLERANCE = 1e-15, 1e-9
"""Relative change of cost and parameters at which the search stops: of a first fit, and of a refit near it."""


@dataclass(frozen=True, kw_only=True)
class Points:
    """The points of a fit."""

    x: Array
    """Logarithms of the inputs, minus their means: [n, inputs]."""
    scale: Array
    """The means: [inputs]."""
    loss: Array
    """[n]"""
    variant: NDArray[np.intp]
    """Index in `names` of each point's variant: [n]."""
    names: tuple[str, ...]
    floor: float = 0.0
    """The value at which E is pinned, for a law that does not fit it."""


def fit_law(points: pd.DataFrame, law: ScalingLaw, *, huber: float | None = None, floor: float = 0.0) -> Fit:
    """Fit a law.

    Args:
        points: columns `loss`, the law's inputs, and `variant` if there are several; a row for each measurement.
        law: the form.
        huber: log residuals above this count linearly; None: 1.345 standard deviations of the noise.
        floor: the value at which E is pinned, for a law that does not fit it.

    Raises:
        ValueError: columns are missing, no point is left, or there are several variants and the law does not pool.
    """
    kept, dropped = usable(points, law)
    names = tuple(dict.fromkeys(kept["variant"]))
    if law.pooling is None and len(names) > 1:
        raise ValueError(f"{law.name} is for one variant, and there are {len(names)}: {', '.join(map(str, names))}")
    refusal = not_identifiable(kept, law, names)
    if refusal is not None:
        found = refused(law, names, *refusal)
    else:
        found = fit_prepared(replace(prepared(kept, law), floor=floor), law, huber=huber)
    return replace(found, num_points=len(kept), dropped=dropped)


def prepared(points: pd.DataFrame, law: ScalingLaw) -> Points:
    """Return points, all of which can be fitted (see `identifiability.usable`), as arrays."""
    names = tuple(dict.fromkeys(points["variant"]))
    logs = np.log(points[list(law.inputs)].to_numpy(float))
    scale = logs.mean(axis=0)
    variant = points["variant"].map(names.index).to_numpy(np.intp)
    return Points(x=logs - scale, scale=scale, loss=points["loss"].to_numpy(float), variant=variant, names=names)


def fit_prepared(data: Points, law: ScalingLaw, near: Fit | None = None, huber: float | None = None) -> Fit:
    """Fit a law to prepared points.

    Args:
        data: the points.
        law: the form.
        near: a fit of the same law to similar points. Its exponents are then the only start, which is faster, and its
            delta is kept.
        huber: log residuals above this count linearly; None: the delta of `near`, or one that follows the noise.
    """
    if huber is None and near is not None and near.huber > 0:
        huber = near.huber
    search = _line if law.line else _powers
    if huber is not None:
        return search(data, law, near, huber, TOLERANCE if near is None else REFIT_TOLERANCE)
    first = search(data, law, near, HOFFMANN_DELTA, REFIT_TOLERANCE)
    delta = huber_delta(np.array(first.residuals), free_parameters(law, len(data.names)))
    return replace(search(data, law, first, delta, TOLERANCE), agreeing_starts=first.agreeing_starts)


def huber_delta(residuals: Array, free: int) -> float:
    """Return the delta that follows the noise: 1.345 standard deviations, robustly.

    Args:
        residuals: log residuals of a fit [n].
        free: parameters of the fit. As many residuals may be zero whatever the noise, so the smallest are left out.
    """
    sizes = np.sort(np.abs(residuals))[min(free, len(residuals) - 1) :]
    return max(DEVIATIONS * 1.4826 * float(np.median(sizes)), SMALLEST_DELTA)


def _line(data: Points, law: ScalingLaw, near: Fit | None, huber: float, tolerance: float) -> Fit:
    x = data.x[:, 0]

    def residuals(parameters: Array) -> Array:
        return np.asarray(np.log(np.maximum(parameters[0] + parameters[1] * x, 1e-12)) - np.log(data.loss))

    slope, middle = np.polyfit(x, data.loss, 1)
    found = least_squares(residuals, [middle, slope], loss="huber", f_scale=huber, xtol=1e-14, ftol=1e-14, gtol=1e-12)
    constant = float(found.x[0] - found.x[1] * data.scale[0])
    return _made(data, law, found, constant, found.x[1:, None], np.empty((1, 0)), huber, agreeing=1.0)


def _powers(data: Points, law: ScalingLaw, near: Fit | None, huber: float, tolerance: float) -> Fit:
    inputs, variants = len(law.inputs), len(data.names)
    own = 1 if law.pooling is Pooling.SHARED_EXPONENTS else variants
    # Variants start with the same exponent for an input, even where each has its own: polishing separates them.
    grid = [np.tile(exponents, (own, 1)) for exponents in itertools.product(STARTS, repeat=inputs)]
    if near is not None and near.status is FitStatus.OK:
        grid = [np.array([near.exponents[name] for name in data.names][:own])]
    starts = sorted(((*_linear(data, law, exponents), exponents) for exponents in grid), key=lambda start: start[0])
    polished = [
        _polish(data, law, exponents, linear, huber, tolerance) for _, linear, exponents in starts[:KEPT_STARTS]
    ]
    best = min(polished, key=lambda result: result.cost)
    agreeing = float(np.mean([result.cost <= best.cost * (1 + 1e-3) + 1e-15 for result in polished]))
    constant, logs, exponents_own = _unpacked(best.x, law, variants, own)
    exponents = exponents_own[np.arange(variants) % own]
    # Undo the division of the inputs by their geometric means.
    coefficients = np.exp(logs + exponents @ np.diag(data.scale))
    return _made(data, law, best, constant, coefficients, exponents, huber, agreeing)


def _linear(data: Points, law: ScalingLaw, exponents: Array) -> tuple[float, Array]:
    """Return a cost, and the best non-negative E and coefficients [1 + variants x inputs], for given exponents."""
    variants, inputs = len(data.names), len(law.inputs)
    columns = np.zeros((len(data.loss), 1 + variants * inputs))
    columns[:, 0] = law.irreducible_loss
    powers = np.exp(-data.x * exponents[data.variant % len(exponents)])
    for i in range(inputs):
        columns[np.arange(len(data.loss)), 1 + data.variant * inputs + i] = powers[:, i]
    # Relative residuals equal log residuals to first order.
    solution, norm = nnls(columns / data.loss[:, None], 1 - data.floor / data.loss)
    return float(norm), solution


def _polish(
    data: Points, law: ScalingLaw, exponents: Array, linear: Array, huber: float, tolerance: float
) -> OptimizeResult:
    """Fit all parameters together: E, then log coefficients [variants, inputs], then exponents [own, inputs]."""
    variants, inputs, own = len(data.names), len(law.inputs), len(exponents)
    amounts = np.log(np.maximum(linear[1:], 1e-8 * data.loss.min()))
    start = np.concatenate([[linear[0]] if law.irreducible_loss else [], amounts, exponents.ravel()])
    constant_low, constant_high = ([0.0], [data.loss.min()]) if law.irreducible_loss else ([], [])
    low = np.concatenate([constant_low, np.full(amounts.shape, -60.0), np.full(own * inputs, EXPONENTS[0])])
    high = np.concatenate([constant_high, np.full(amounts.shape, 60.0), np.full(own * inputs, EXPONENTS[1])])

    def terms(parameters: Array) -> tuple[float, Array]:
        constant, logs, powers = _unpacked(parameters, law, variants, own)
        return data.floor + constant, np.exp(logs[data.variant] - data.x * powers[data.variant % own])

    def residuals(parameters: Array) -> Array:
        constant, each = terms(parameters)
        return np.asarray(np.log(constant + each.sum(axis=1)) - np.log(data.loss))

    def jacobian(parameters: Array) -> Array:
        constant, each = terms(parameters)
        shares = each / (constant + each.sum(axis=1, keepdims=True))
        rows = np.arange(len(shares))
        found = np.zeros((len(shares), variants + own, inputs))
        found[rows, data.variant] = shares
        found[rows, variants + data.variant % own] = -data.x * shares
        first = 1 / (constant + each.sum(axis=1, keepdims=True))
        return np.hstack([first] * law.irreducible_loss + [found.reshape(len(shares), -1)])

    margin = 1e-9 * np.maximum(1.0, np.abs(high))
    return least_squares(
        residuals,
        np.clip(start, low + margin, high - margin),
        jac=jacobian,
        bounds=(low, high),
        loss="huber",
        f_scale=huber,
        x_scale="jac",
        xtol=tolerance,
        ftol=tolerance,
        gtol=1e-13,
        max_nfev=2000,
    )


def _unpacked(parameters: Array, law: ScalingLaw, variants: int, own: int) -> tuple[float, Array, Array]:
    inputs = len(law.inputs)
    constant = float(parameters[0]) if law.irreducible_loss else 0.0
    rest = parameters[1:] if law.irreducible_loss else parameters
    return constant, rest[: variants * inputs].reshape(variants, inputs), rest[variants * inputs :].reshape(own, inputs)


def _made(
    data: Points,
    law: ScalingLaw,
    found: OptimizeResult,
    constant: float,
    coefficients: Array,
    exponents: Array,
    huber: float,
    agreeing: float,
) -> Fit:
    """Make the result of a search; coefficients and exponents are [variants, inputs]."""
    n, free = len(data.loss), free_parameters(law, len(data.names))
    cost = float(found.cost)
    by_variant = dict(zip(data.names, map(tuple, exponents.tolist()), strict=True))
    refusal, reason = _verdict(law, data, found, constant, by_variant) or (None, "")
    return Fit(
        law=law,
        refusal=refusal,
        reason=reason,
        variants=data.names,
        irreducible_loss=constant if law.irreducible_loss or law.line else data.floor,
        coefficients=dict(zip(data.names, map(tuple, coefficients.tolist()), strict=True)),
        exponents=by_variant,
        num_points=n,
        residuals=tuple((-found.fun).tolist()),
        huber=huber,
        cost=cost,
        gradient=float(np.abs(found.grad).max()),
        agreeing_starts=agreeing,
        aicc=_aicc(cost, n, free, huber),
    )


def _aicc(cost: float, n: int, free: int, huber: float) -> float:
    """Return the corrected criterion of Akaike; NaN for too few points.

    The likelihood that a Huber cost maximizes is `exp(-rho(r) / s) / Z`: normal in the middle, Laplace in the tails.
    The scale s is maximized as well, and counts as a parameter.
    """
    free += 1
    if n <= free + 1:
        return float("nan")
    # An exact fit has no residuals to take the logarithm of.
    middle = np.log(max(cost / n, 1e-30))

    def deviance(log_scale: float) -> float:
        scale = np.exp(log_scale)
        edge = huber / np.sqrt(2 * scale)
        whole = np.sqrt(2 * np.pi * scale) * erf(edge) + 2 * scale / huber * np.exp(-(edge**2))
        return float(2 * cost / scale + 2 * n * np.log(whole))

    smallest = minimize_scalar(deviance, bounds=(middle - 1, middle + 2), method="bounded").fun
    return float(smallest + 2 * free + 2 * free * (free + 1) / (n - free - 1))


def _verdict(
    law: ScalingLaw, data: Points, found: OptimizeResult, constant: float, exponents: dict[str, tuple[float, ...]]
) -> tuple[Refusal, str] | None:
    """Return why a solution does not hold, as code and sentence; None if it does."""
    if not found.success:
        return Refusal.NOT_CONVERGED, f"the search did not converge: {found.message}"
    low, high = EXPONENTS
    for name, values in exponents.items():
        for value, column in zip(values, law.inputs, strict=False):
            if not low * 1.02 < value < high * 0.98:
                return Refusal.EXPONENT_AT_BOUND, (
                    f"the exponent of {column} of {name} ends at {value:.3g}, the bound of its range"
                )
    if law.irreducible_loss and not law.line:
        smallest = float(data.loss.min())
        if constant < 1e-6 * smallest:
            return Refusal.NO_IRREDUCIBLE_LOSS, "E ends at zero: the losses do not flatten; fit the law without E"
        if constant > (1 - 1e-6) * smallest:
            return Refusal.NO_POWER, (
                f"E ends at the smallest loss, {smallest:.5g}: the losses show no power law above it"
            )
    return None
