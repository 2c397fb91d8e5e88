"""Fits of one law to the losses of many seeds at once, with E pinned at each of several values.

A seed is a whole ladder: every seed has the same points, and only the losses differ. All fits advance together, by
damped Gauss-Newton steps on the Huber cost of the log residuals, so that hundreds of fits cost as much as a few. A law
with own exponents is fitted to each variant by itself, which is the same once E is pinned.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .fit import DEVIATIONS, EXPONENTS, SMALLEST_DELTA, STARTS, Array, Points
from .laws import Pooling, ScalingLaw

STEPS = 100
"""Most steps of a fit."""
STOP, CONVERGED = 1e-9, 1e-4
"""Relative fall of the cost at which a fit stops, and above which one that ran out of steps has not converged. Where E
is far off, all residuals count linearly, and the last digits come slowly."""
WILD = 6.0
"""Bound of an exponent's size where there is one input. The noise of a seed may turn its sign."""


@dataclass(frozen=True, kw_only=True)
class PinnedFits:
    """Fits with E pinned. The leading dimensions of all arrays are values of E and seeds: [E, seeds, ...]."""

    values: Array
    """The values of E, rising: [E]."""
    variants: tuple[str, ...]
    center: Array
    """Means of the logarithms of the inputs, which the coefficients refer to: [inputs]."""
    logs: Array
    """Logarithms of the coefficients: [E, seeds, variants, inputs]."""
    exponents: Array
    """[E, seeds, variants, inputs]"""
    costs: Array
    """Sums of the Huber losses of the log residuals: [E, seeds]."""
    scores: Array
    """Derivatives of the costs by E, everything else fitted: [E, seeds]."""
    residuals: Array
    """log(fit) - log(L): [E, seeds, points]."""
    holds: NDArray[np.bool_]
    """Whether the fit converged to exponents within their bounds: [E, seeds]."""
    huber: float

    def exponent(self, variant: str, index: int = 0) -> Array:
        """Return the exponent of an input, NaN where the fit does not hold: [E, seeds]."""
        return self._where_held(self.exponents[:, :, self.variants.index(variant), index])

    def log_terms(self, variant: str, *inputs: float) -> Array:
        """Return the logarithm of each power of the law at some inputs: [E, seeds, inputs]."""
        v = self.variants.index(variant)
        terms = self.logs[:, :, v] - self.exponents[:, :, v] * (np.log(inputs) - self.center)
        return np.asarray(np.where(self.holds[..., None], terms, np.nan))

    def curve(self, variant: str, *inputs: float) -> Array:
        """Return the loss of a variant at some inputs: [E, seeds]."""
        return np.asarray(self.values[:, None] + np.exp(self.log_terms(variant, *inputs)).sum(axis=2))

    def joined(self, other: "PinnedFits") -> "PinnedFits":
        """Return these fits and others of the same losses at other values of E."""
        order = np.argsort(np.concatenate([self.values, other.values]))
        names = ("values", "logs", "exponents", "costs", "scores", "residuals", "holds")
        both: dict[str, Any] = {n: np.concatenate([getattr(self, n), getattr(other, n)])[order] for n in names}
        return replace(self, **both)

    def _where_held(self, values: Array) -> Array:
        return np.asarray(np.where(self.holds, values, np.nan))


def fit_pinned(data: Points, law: ScalingLaw, losses: Array, values: Array, huber: float | None = None) -> PinnedFits:
    """Fit a law to the losses of each seed, with E pinned at each value.

    Args:
        data: the points that every seed has; their losses are not used.
        law: powers of one or two inputs; its E is pinned.
        losses: [seeds, points], positive.
        values: values of E, rising, below the smallest loss: [E].
        huber: log residuals above this count linearly; None: 1.345 standard deviations of the noise of all seeds.
    """
    if huber is None:
        squares = _fits(data, law, losses, values, np.inf)
        huber = _delta(squares, data, law)
    return _fits(data, law, losses, values, huber)


def _delta(squares: PinnedFits, data: Points, law: ScalingLaw) -> float:
    """Return the delta that follows the noise, from least squares at the value of E that fits best."""
    residuals = squares.residuals[int(squares.costs.sum(axis=1).argmin())]
    variants, inputs = len(data.names), len(law.inputs)
    own = 1 if law.pooling is Pooling.SHARED_EXPONENTS else variants
    free = inputs * (variants + own)
    correction = float(np.sqrt(len(data.variant) / max(1, len(data.variant) - free)))
    return max(DEVIATIONS * 1.4826 * float(np.median(np.abs(residuals))) * correction, SMALLEST_DELTA)


def _fits(data: Points, law: ScalingLaw, losses: Array, values: Array, huber: float) -> PinnedFits:
    """Fit each group of variants that share exponents."""
    count, seeds, inputs = len(values), len(losses), len(law.inputs)
    shape = (count, seeds, len(data.names), inputs)
    logs, exponents = np.empty(shape), np.empty(shape)
    costs, scores = np.zeros((count, seeds)), np.zeros((count, seeds))
    residuals, holds = np.empty((count, seeds, losses.shape[1])), np.ones((count, seeds), dtype=bool)
    shared = law.pooling is Pooling.SHARED_EXPONENTS
    groups = [np.arange(len(data.names))] if shared else [np.array([v]) for v in range(len(data.names))]
    for group in groups:
        mine = np.flatnonzero(np.isin(data.variant, group))
        variant = np.searchsorted(group, data.variant[mine])
        solver = _Solver(x=data.x[mine], variant=variant, variants=len(group), huber=huber)
        found = solver.solve(losses[:, mine], values)
        logs[:, :, group] = found.logs.reshape(count, seeds, len(group), inputs)
        exponents[:, :, group] = found.exponents.reshape(count, seeds, 1, inputs)
        costs += found.cost.reshape(count, seeds)
        scores += found.score.reshape(count, seeds)
        residuals[:, :, mine] = found.residuals.reshape(count, seeds, len(mine))
        holds &= found.holds.reshape(count, seeds)
    return PinnedFits(
        values=np.asarray(values, dtype=float),
        variants=data.names,
        center=data.scale,
        logs=logs,
        exponents=exponents,
        costs=costs,
        scores=scores,
        residuals=residuals,
        holds=holds,
        huber=huber,
    )


@dataclass(frozen=True, kw_only=True)
class _Solution:
    """Solutions of a batch of problems [batch]."""

    logs: Array
    exponents: Array
    cost: Array
    score: Array
    residuals: Array
    holds: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class _State:
    """Where the fits of a batch stand."""

    theta: Array
    """Log coefficients of each variant and input, then exponents of each input: [batch, parameters]."""
    residuals: Array
    """log(fit) - log(L): [batch, points]."""
    jacobian: Array
    """[batch, points, parameters]"""
    inverse: Array
    """1 / fit: [batch, points]."""
    cost: Array
    """[batch]"""

    def map(self, change: Callable[[Array], Array]) -> "_State":
        names = ("theta", "residuals", "jacobian", "inverse", "cost")
        return replace(self, **{name: change(getattr(self, name)) for name in names})


@dataclass(frozen=True, kw_only=True)
class _Solver:
    """Fits one group of variants, which share exponents."""

    x: Array
    """Logarithms of the inputs, centered: [points, inputs]."""
    variant: NDArray[np.intp]
    """[points]"""
    variants: int
    huber: float

    def solve(self, losses: Array, values: Array) -> _Solution:
        """Fit losses [seeds, points] at values of E [E]; the batch is [E x seeds]."""
        seeds, inputs = len(losses), self.x.shape[1]
        constant, logs = np.repeat(values, seeds)[:, None], np.tile(np.log(losses), (len(values), 1))
        bounds = EXPONENTS if inputs > 1 else (-WILD, WILD)
        low, high = np.full(self._parameters, -np.inf), np.full(self._parameters, np.inf)
        low[-inputs:], high[-inputs:] = bounds
        state = self._state(np.repeat(self._starts(losses, values), seeds, axis=0), constant, logs)
        damping, running = np.full(len(logs), 1e-3), np.ones(len(logs), dtype=bool)
        last = np.full(len(logs), np.inf)
        for _ in range(STEPS):
            at = np.flatnonzero(running)
            if not len(at):
                break
            mine = state.map(lambda values, at=at: values[at])  # type: ignore[misc]
            trial = self._state(np.clip(mine.theta + self._step(mine, damping[at]), low, high), constant[at], logs[at])
            better = trial.cost <= mine.cost
            fall = (mine.cost - trial.cost) / np.maximum(mine.cost, 1e-300)
            for name in ("theta", "residuals", "jacobian", "inverse", "cost"):
                getattr(state, name)[at[better]] = getattr(trial, name)[better]
            last[at[better]] = fall[better]
            damping[at] = np.where(better, np.maximum(damping[at] / 8, 1e-12), damping[at] * 6)
            running[at] = ~((better & (fall < STOP)) | (damping[at] > 1e9) | (mine.cost < 1e-24))
        exponents = state.theta[:, -inputs:]
        within = (exponents > bounds[0] * 1.02) & (exponents < bounds[1] * 0.98)
        return _Solution(
            logs=state.theta[:, :-inputs],
            exponents=exponents,
            cost=state.cost,
            score=(self._weights(state.residuals) * state.residuals * state.inverse).sum(axis=1),
            residuals=state.residuals,
            holds=(~running | (last < CONVERGED)) & within.all(axis=1),
        )

    @property
    def _parameters(self) -> int:
        return (self.variants + 1) * int(self.x.shape[1])

    def _weights(self, residuals: Array) -> Array:
        return np.asarray(np.minimum(1.0, self.huber / np.maximum(np.abs(residuals), 1e-300)))

    def _state(self, theta: Array, constant: Array, logs: Array) -> _State:
        inputs, rows = self.x.shape[1], np.arange(len(self.x))
        exponents = theta[:, -inputs:]
        coefficients = theta[:, :-inputs].reshape(len(theta), self.variants, inputs)
        terms = np.exp(np.clip(coefficients[:, self.variant] - self.x * exponents[:, None], -200, 200))
        inverse = 1 / (constant + terms.sum(axis=2))
        shares = terms * inverse[..., None]
        jacobian = np.zeros((len(theta), len(rows), theta.shape[1]))
        for i in range(inputs):
            jacobian[:, rows, self.variant * inputs + i] = shares[..., i]
        jacobian[..., -inputs:] = -self.x * shares
        residuals = -np.log(inverse) - logs
        sizes = np.abs(residuals)
        inside = np.minimum(sizes, self.huber)
        # r^2 / 2 within delta, delta (|r| - delta / 2) beyond.
        cost = (inside * (sizes - inside / 2)).sum(axis=1)
        return _State(theta=theta, residuals=residuals, jacobian=jacobian, inverse=inverse, cost=cost)

    def _step(self, state: _State, damping: Array) -> Array:
        weighted = state.jacobian * self._weights(state.residuals)[..., None]
        normal = weighted.transpose(0, 2, 1) @ state.jacobian
        gradient = (weighted * state.residuals[..., None]).sum(axis=1)
        diagonal = np.einsum("bpp->bp", normal)
        diagonal += damping[:, None] * diagonal + 1e-14 * diagonal.max(axis=1, keepdims=True) + 1e-290
        return np.asarray(np.clip(-np.linalg.solve(normal, gradient[..., None])[..., 0], -3, 3))

    def _starts(self, losses: Array, values: Array) -> Array:
        """Return the best of a grid of exponents, with their linear coefficients, for the mean losses: [E, parameters].

        Relative residuals equal log residuals to first order, and are linear in the coefficients.
        """
        mean = np.exp(np.log(losses).mean(axis=0))
        inputs = self.x.shape[1]
        grid = np.array(list(itertools.product(STARTS, repeat=inputs)))
        columns = np.exp(-self.x * grid[:, None]) / mean[:, None]
        target = 1 - values[:, None] / mean
        costs, amounts = np.zeros((len(values), len(grid))), []
        for v in range(self.variants):
            mine = self.variant == v
            own = columns[:, mine]
            normal = own.transpose(0, 2, 1) @ own
            normal += 1e-9 * np.einsum("gpp->g", normal)[:, None, None] * np.eye(inputs)
            right = np.einsum("gni,en->egi", own, target[:, mine])
            found = np.maximum(np.linalg.solve(normal, right[..., None])[..., 0], 1e-6 * mean.min())
            costs += ((np.einsum("gni,egi->egn", own, found) - target[:, None, mine]) ** 2).sum(axis=2)
            amounts.append(found)
        best = costs.argmin(axis=1)
        chosen = np.log(np.stack(amounts, axis=2)[np.arange(len(values)), best])
        return np.concatenate([chosen.reshape(len(values), -1), grid[best]], axis=1)
