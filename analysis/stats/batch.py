"""Refits of one law to many weightings of the same points at once, near a known solution.

A resample of runs is a weight of each point, and a frontier is a choice of points, a weight of 0 or 1. All fits
advance together by damped Gauss-Newton steps on the Huber cost of the log residuals, so that hundreds cost as much as a
few of `fit.fit`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .fit import EXPONENTS, Array, Points
from .laws import Fit

STEPS = 200
"""Most steps of a fit."""
STOP = 1e-10
"""Relative fall of the cost at which a fit has converged."""
LINEAR_SHARE = 0.2
"""Share of its weight with which a residual in Huber's linear part counts in the curvature; exact would be 0, which is
singular where few residuals are in the quadratic part."""
MARGIN = 0.02
"""An exponent this close to its bound, relatively, does not count."""


@dataclass(frozen=True, kw_only=True)
class Refits:
    """Refitted laws of one variant: arrays have a row for each."""

    irreducible_loss: Array
    """E, 0 for a law without it: [n]."""
    has_constant: bool
    """Whether the law has E."""
    logs: Array
    """Logarithms of the coefficients: [n, inputs]."""
    exponents: Array
    """[n, inputs]"""
    holds: NDArray[np.bool_]
    """Whether the fit converged within its bounds; E at zero holds: [n]."""

    def log_loss(self, inputs: Array) -> Array:
        """Return the logarithm of the loss at inputs [points, inputs], NaN where a fit does not hold: [n, points]."""
        terms = np.exp(self.logs[:, None] - self.exponents[:, None] * np.log(inputs))
        return np.asarray(
            np.where(self.holds[:, None], np.log(self.irreducible_loss[:, None] + terms.sum(axis=2)), np.nan)
        )


def refit(data: Points, near: Fit, weights: Array, losses: Array | None = None) -> Refits:
    """Refit a law to weighted points.

    Args:
        data: the points of one variant.
        near: a fit that holds, of the same law to similar points; gives the start and Huber's delta.
        weights: weight of each point in each fit, 0 or more: [n, points].
        losses: losses of each fit, where they are not those of the points: [n, points].
    """
    problem = _Problem(x=data.x, constant=near.law.irreducible_loss, huber=near.huber, weights=weights)
    every = data.loss if losses is None else losses
    logs = np.log(np.broadcast_to(every, weights.shape))
    lowest = np.exp(np.where(weights > 0, logs, np.inf).min(axis=1))
    theta = np.tile(problem.start(near, data.scale), (len(weights), 1))
    low, high = problem.bounds(lowest)
    theta = np.clip(theta, low, high)
    damping, running = np.full(len(theta), 1e-3), np.ones(len(theta), dtype=bool)
    cost = problem.cost(theta, logs, np.arange(len(theta)))
    for _ in range(STEPS):
        at = np.flatnonzero(running)
        if not len(at):
            break
        trial = np.clip(theta[at] + problem.step(theta[at], logs[at], at, damping[at]), low[at], high[at])
        tried = problem.cost(trial, logs[at], at)
        better = tried <= cost[at]
        fall = (cost[at] - tried) / np.maximum(cost[at], 1e-300)
        theta[at[better]], cost[at[better]] = trial[better], tried[better]
        damping[at] = np.where(better, np.maximum(damping[at] / 5, 1e-12), damping[at] * 5)
        running[at] = ~((better & (fall < STOP)) | (damping[at] > 1e8))
    offset, inputs = int(problem.constant), data.x.shape[1]
    exponents = theta[:, offset + inputs :]
    within = (exponents > EXPONENTS[0] * (1 + MARGIN)) & (exponents < EXPONENTS[1] * (1 - MARGIN))
    constant = theta[:, 0] if offset else np.zeros(len(theta))
    return Refits(
        irreducible_loss=constant,
        has_constant=problem.constant,
        logs=theta[:, offset : offset + inputs] + exponents * data.scale,
        exponents=exponents,
        holds=~running & within.all(axis=1) & (constant < (1 - 1e-6) * lowest),
    )


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """Parameters of a fit: E (if the law has it), the logarithm of each coefficient, each exponent."""

    x: Array
    """Centered logarithms of the inputs: [points, inputs]."""
    constant: bool
    huber: float
    weights: Array

    def start(self, near: Fit, scale: Array) -> Array:
        name = near.variants[0]
        exponents = np.array(near.exponents[name])
        logs = np.log(near.coefficients[name]) - exponents * scale
        return np.concatenate([[near.irreducible_loss] if self.constant else [], logs, exponents])

    def bounds(self, lowest: Array) -> tuple[Array, Array]:
        inputs, rows = self.x.shape[1], len(lowest)
        low = np.concatenate([[0.0] * self.constant, [-60.0] * inputs, [EXPONENTS[0]] * inputs])
        high = np.concatenate([[np.inf] * self.constant, [60.0] * inputs, [EXPONENTS[1]] * inputs])
        lows, highs = np.tile(low, (rows, 1)), np.tile(high, (rows, 1))
        if self.constant:
            highs[:, 0] = lowest * (1 - 1e-9)
        return lows, highs

    def _terms(self, theta: Array) -> tuple[Array, Array]:
        """Return the powers [batch, points, inputs], and the loss [batch, points]."""
        offset, inputs = int(self.constant), self.x.shape[1]
        logs, exponents = theta[:, None, offset : offset + inputs], theta[:, None, offset + inputs :]
        terms = np.exp(logs - exponents * self.x)
        return terms, terms.sum(axis=2) + (theta[:, :1] if self.constant else 0.0)

    def cost(self, theta: Array, logs: Array, at: NDArray[np.intp]) -> Array:
        sizes = np.abs(np.log(self._terms(theta)[1]) - logs)
        inside = np.minimum(sizes, self.huber)
        return np.asarray((self.weights[at] * inside * (sizes - inside / 2)).sum(axis=1))

    def step(self, theta: Array, logs: Array, at: NDArray[np.intp], damping: Array) -> Array:
        terms, loss = self._terms(theta)
        residuals = np.log(loss) - logs
        shares = terms / loss[..., None]
        parts = [1 / loss[..., None]] if self.constant else []
        jacobian = np.concatenate([*parts, shares, -self.x * shares], axis=2)
        slope = np.minimum(1.0, self.huber / np.maximum(np.abs(residuals), 1e-300))
        gradient = np.einsum("bn,bnp->bp", self.weights[at] * slope * residuals, jacobian)
        if self.constant:
            # E at zero that wants to fall further stays, and the others move without it.
            stuck = (theta[:, 0] <= 0) & (gradient[:, 0] > 0)
            jacobian[stuck, :, 0], gradient[stuck, 0] = 0.0, 0.0
        curvature = self.weights[at] * np.where(slope < 1, LINEAR_SHARE * slope, 1.0)
        normal = (jacobian * curvature[..., None]).transpose(0, 2, 1) @ jacobian
        diagonal = np.einsum("bpp->bp", normal)
        diagonal += damping[:, None] * diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-290
        return np.asarray(-np.linalg.solve(normal, gradient[..., None])[..., 0])
