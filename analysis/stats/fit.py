"""Laws of loss against size and data, fitted so that a reviewer may look (`method.md`, Fitting).

A law is a sum of powers of its inputs, `L = E + A N^-alpha (+ B D^-beta)`, with or without the offset E, or a straight
line in the logarithm, `L = a + b log N`. Inputs are columns of a tidy table: parameters, images, FLOPs. Several
variants may share E, or E and the exponents, and have a coefficient each.

Variable projection: for given exponents the rest is linear and not negative, so exponents alone are searched, from
many starts (arXiv 2603.22339); all parameters are then polished together under a Huber loss of log residuals (Hoffmann
et al. 2022, arXiv 2203.15556; its replication, arXiv 2404.10102). A fit says what it could not do instead of giving a
number: see `Fit.status`.
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, least_squares, nnls

from .identifiability import not_identifiable, refused, usable
from .laws import Fit, ScalingLaw, Status, free_parameters

Array = NDArray[np.float64]

HUBER = 1e-3
"""Log residuals above this count linearly."""
EXPONENTS = (0.01, 3.0)
"""The range of an exponent; a fit that ends at its border is none."""
STARTS = np.geomspace(0.03, 2.0, 12)
KEPT_STARTS = 4
"""So many of the best starts are polished."""
TOLERANCE, REFIT_TOLERANCE = 1e-15, 1e-9
"""Relative change of cost and parameters at which the search has come to its end; of a fit near another one."""


@dataclass(frozen=True, kw_only=True)
class Points:
    """The points of a fit."""

    x: Array
    """Logarithms of the inputs, less their means: [n, inputs]."""
    scale: Array
    """The means: [inputs]."""
    loss: Array
    """[n]"""
    variant: NDArray[np.intp]
    """Place in `names` of each point's variant: [n]."""
    names: tuple[str, ...]
    floor: float = 0.0
    """A known offset, below which no loss is: for a law that fits none of its own."""


def fit(points: pd.DataFrame, law: ScalingLaw) -> Fit:
    """Fit a law.

    Args:
        points: columns `variant`, `loss`, and the law's inputs; a row for each measurement.
        law: the form.

    Raises:
        ValueError: columns are missing, no point is left, or there are several variants and the law pools none.
    """
    kept, dropped = usable(points, law)
    names = tuple(dict.fromkeys(kept["variant"]))
    if law.share is None and len(names) > 1:
        raise ValueError(f"{law.name} is for one variant, and there are {len(names)}: {', '.join(map(str, names))}")
    refusal = not_identifiable(kept, law, names)
    if refusal is not None:
        return refused(law, names, refusal, used=len(kept), dropped=dropped)
    return fit_prepared(prepared(kept, law), law, dropped=dropped)


def prepared(points: pd.DataFrame, law: ScalingLaw) -> Points:
    """Points that can all be fitted, as arrays."""
    names = tuple(dict.fromkeys(points["variant"]))
    logs = np.log(points[list(law.inputs)].to_numpy(float))
    scale = logs.mean(axis=0)
    variant = points["variant"].map(names.index).to_numpy(np.intp)
    return Points(x=logs - scale, scale=scale, loss=points["loss"].to_numpy(float), variant=variant, names=names)


def fit_prepared(data: Points, law: ScalingLaw, near: Fit | None = None, dropped: tuple[str, ...] = ()) -> Fit:
    """Fit a law to prepared points.

    Args:
        data: the points.
        law: the form.
        near: a fit of the same law to points much like these: its exponents are the one start, which is faster.
        dropped: what the fit is to say of points that were left out.
    """
    return _line(data, law, dropped) if law.line else _powers(data, law, dropped, near)


def profile(points: pd.DataFrame, law: ScalingLaw, offsets: Array) -> Array:
    """The cost of a law with an offset, which is held at each of `offsets`, all else fitted; NaN above a loss.

    A flat profile says that the losses do not fix E, whatever its fitted value is.

    Args:
        points: as of `fit`; all of them can be fitted.
        law: with an offset.
        offsets: [n], rising.
    """
    data, rest = prepared(points, law), replace(law, offset=False)
    costs, near = np.full(len(offsets), np.nan), None
    for place in np.flatnonzero(offsets < data.loss.min()):
        # From the solution beside it.
        near = fit_prepared(replace(data, floor=float(offsets[place])), rest, near)
        costs[place] = near.cost
    return costs


def _line(data: Points, law: ScalingLaw, dropped: tuple[str, ...]) -> Fit:
    x = data.x[:, 0]

    def residuals(parameters: Array) -> Array:
        return np.asarray(np.log(np.maximum(parameters[0] + parameters[1] * x, 1e-12)) - np.log(data.loss))

    slope, middle = np.polyfit(x, data.loss, 1)
    found = least_squares(residuals, [middle, slope], loss="huber", f_scale=HUBER, xtol=1e-14, ftol=1e-14, gtol=1e-12)
    b = float(found.x[1])
    return _made(
        data,
        law,
        dropped,
        found,
        offset=float(found.x[0] - b * data.scale[0]),
        coefficients={data.names[0]: (b,)},
        exponents={data.names[0]: ()},
        agreeing=1.0,
    )


def _powers(data: Points, law: ScalingLaw, dropped: tuple[str, ...], near: Fit | None) -> Fit:
    inputs, variants = len(law.inputs), len(data.names)
    own = 1 if law.share == "offset and exponents" else variants
    # One exponent an input at the start, also where variants have their own: they part in the polishing.
    grid = [np.tile(exponents, (own, 1)) for exponents in itertools.product(STARTS, repeat=inputs)]
    if near is not None and near.status == "ok":
        grid = [np.array([near.exponents[name] for name in data.names][:own])]
    starts = []
    for exponents in grid:
        linear, cost = _linear(data, law, exponents)
        starts.append((cost, exponents, linear))
    starts.sort(key=lambda start: start[0])
    polished = [_polish(data, law, exponents, linear, near) for _, exponents, linear in starts[:KEPT_STARTS]]
    best = min(polished, key=lambda result: result.cost)
    agreeing = float(np.mean([result.cost <= best.cost * (1 + 1e-3) + 1e-15 for result in polished]))
    offset, logs, exponents_own = _unpacked(best.x, law, variants, own)
    exponents_all = exponents_own[np.arange(variants) % own]
    # Back from inputs that were divided by their geometric mean.
    amounts = np.exp(logs + exponents_all @ np.diag(data.scale))
    return _made(
        data,
        law,
        dropped,
        best,
        offset=offset,
        coefficients={name: tuple(amounts[i]) for i, name in enumerate(data.names)},
        exponents={name: tuple(exponents_all[i]) for i, name in enumerate(data.names)},
        agreeing=agreeing,
    )


def _linear(data: Points, law: ScalingLaw, exponents: Array) -> tuple[Array, float]:
    """The offset and coefficients [1 + variants x inputs], none negative, that are best for given exponents."""
    variants, inputs = len(data.names), len(law.inputs)
    columns = np.zeros((len(data.loss), 1 + variants * inputs))
    columns[:, 0] = law.offset
    powers = np.exp(-data.x * exponents[data.variant % len(exponents)])
    for i in range(inputs):
        columns[np.arange(len(data.loss)), 1 + data.variant * inputs + i] = powers[:, i]
    # Relative residuals, which log residuals are to first order.
    solution, norm = nnls(columns / data.loss[:, None], 1 - data.floor / data.loss)
    return solution, float(norm)


def _polish(data: Points, law: ScalingLaw, exponents: Array, linear: Array, near: Fit | None) -> OptimizeResult:
    """All parameters together: E, then log coefficients [variants, inputs], then exponents [own, inputs]."""
    variants, inputs, own = len(data.names), len(law.inputs), len(exponents)
    amounts = np.log(np.maximum(linear[1:], 1e-8 * data.loss.min()))
    start = np.concatenate([[linear[0]] if law.offset else [], amounts, exponents.ravel()])
    low = np.concatenate(
        [[0.0] if law.offset else [], np.full(amounts.shape, -60.0), np.full(own * inputs, EXPONENTS[0])]
    )
    high = np.concatenate(
        [[data.loss.min()] if law.offset else [], np.full(amounts.shape, 60.0), np.full(own * inputs, EXPONENTS[1])]
    )

    def terms(parameters: Array) -> tuple[float, Array]:
        offset, logs, powers = _unpacked(parameters, law, variants, own)
        return data.floor + offset, np.exp(logs[data.variant] - data.x * powers[data.variant % own])

    def residuals(parameters: Array) -> Array:
        offset, each = terms(parameters)
        return np.asarray(np.log(offset + each.sum(axis=1)) - np.log(data.loss))

    def jacobian(parameters: Array) -> Array:
        offset, each = terms(parameters)
        shares = each / (offset + each.sum(axis=1, keepdims=True))
        rows = np.arange(len(shares))
        found = np.zeros((len(shares), variants + own, inputs))
        found[rows, data.variant] = shares
        found[rows, variants + data.variant % own] = -data.x * shares
        first = 1 / (offset + each.sum(axis=1, keepdims=True))
        return np.hstack([first] * law.offset + [found.reshape(len(shares), -1)])

    margin = 1e-9 * np.maximum(1.0, np.abs(high))
    tolerance = TOLERANCE if near is None else REFIT_TOLERANCE
    return least_squares(
        residuals,
        np.clip(start, low + margin, high - margin),
        jac=jacobian,
        bounds=(low, high),
        loss="huber",
        f_scale=HUBER,
        x_scale="jac",
        xtol=tolerance,
        ftol=tolerance,
        gtol=1e-13,
        max_nfev=2000,
    )


def _unpacked(parameters: Array, law: ScalingLaw, variants: int, own: int) -> tuple[float, Array, Array]:
    inputs = len(law.inputs)
    offset = float(parameters[0]) if law.offset else 0.0
    rest = parameters[1:] if law.offset else parameters
    return offset, rest[: variants * inputs].reshape(variants, inputs), rest[variants * inputs :].reshape(own, inputs)


def _made(
    data: Points,
    law: ScalingLaw,
    dropped: tuple[str, ...],
    found: OptimizeResult,
    *,
    offset: float,
    coefficients: dict[str, tuple[float, ...]],
    exponents: dict[str, tuple[float, ...]],
    agreeing: float,
) -> Fit:
    n, free = len(data.loss), free_parameters(law, len(data.names))
    cost = float(found.cost)
    # Of a fit without residuals nothing is left to take the logarithm of.
    spread = n * np.log(max(2 * cost / n, 1e-30))
    status, reason = _verdict(law, data, found, offset, exponents)
    return Fit(
        law=law,
        status=status,
        reason=reason,
        variants=data.names,
        offset=offset,
        coefficients={name: tuple(map(float, values)) for name, values in coefficients.items()},
        exponents={name: tuple(map(float, values)) for name, values in exponents.items()},
        used=n,
        dropped=dropped,
        residuals=tuple(float(-r) for r in found.fun),
        cost=cost,
        gradient=float(np.abs(found.grad).max()),
        agreeing_starts=agreeing,
        aicc=float(spread + 2 * free + 2 * free * (free + 1) / max(n - free - 1, 1e-9))
        if n > free + 1
        else float("nan"),
    )


def _verdict(
    law: ScalingLaw, data: Points, found: OptimizeResult, offset: float, exponents: dict[str, tuple[float, ...]]
) -> tuple[Status, str]:
    if not found.success:
        return "not converged", f"the search did not converge: {found.message}"
    low, high = EXPONENTS
    for name, values in exponents.items():
        for value, column in zip(values, law.inputs, strict=False):
            if not low * 1.02 < value < high * 0.98:
                return "at an edge", f"the exponent of {column} of {name} ends at {value:.3g}, the border of its range"
    if law.offset and not law.line:
        smallest = float(data.loss.min())
        if offset < 1e-6 * smallest:
            return "at an edge", "the offset ends at zero: the losses do not flatten; fit the law without it"
        if offset > (1 - 1e-6) * smallest:
            return (
                "at an edge",
                f"the offset ends at the smallest loss, {smallest:.5g}: a power is not seen in the losses",
            )
    return "ok", ""
