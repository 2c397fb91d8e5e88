"""Standard error of the mean of a correlated series, such as the difference of two training losses step by step.

Steps are correlated, and a difference drifts while it is averaged. So a straight line is taken off, an autoregression
is fitted to the rest, and its spectral density at frequency zero gives the variance of the mean (Heidelberger and
Welch 1981, "A spectral method for confidence interval generation and run length control in simulations"; by an
autoregression as in Plummer et al. 2006, "CODA"). The autoregression is Burg's, of the order that AICc prefers (Hurvich
and Tsai 1989). The sum of its coefficients is corrected for the bias of a short series with a trend, which is
-(2 + 4 sum) / steps at order 1 (Stine and Shaman 1989, "A fixed point characterization for bias of autoregressive
estimators").
"""

import numpy as np
import numpy.typing as npt

MIN_STEPS = 40
"""Fewer steps do not show how they are correlated."""
MIN_WINDOWS = 4
"""Fewest means over windows, which count as independent apart from a drift."""
MIN_INDEPENDENT = 4
"""A series that is worth fewer independent steps does not show its correlation either."""
TOO_SHORT = f"fewer than {MIN_STEPS} steps, or {MIN_WINDOWS} windows of them"
TOO_CORRELATED = "the difference changes too slowly for the number of steps"

Floats = npt.NDArray[np.float64]


def standard_errors(series: Floats, *, windows: bool = False) -> Floats:
    """Return the standard error of the mean of each series.

    Args:
        series: shape (series, steps), all finite.
        windows: each value is a mean over many steps, so that values are not correlated beyond a drift.

    Returns:
        Shape (series,); NaN where the series is too short or too correlated to tell.
    """
    count, steps = series.shape
    if steps < (MIN_WINDOWS if windows else MIN_STEPS):
        return np.full(count, np.nan)
    rest = _without_line(series)
    if windows:
        return np.asarray(np.sqrt((rest**2).sum(axis=1) / (steps - 2) / steps))
    variance, total, order = _autoregression(rest)
    # Two degrees of freedom went into the line, and one into each coefficient.
    variance = variance * steps / (steps - 2 - order)
    corrected = np.where(order > 0, total + (2 + 4 * total) / steps, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.sqrt(variance / steps) / (1 - corrected)
        independent = (rest**2).mean(axis=1) / errors**2
    # No noise at all is an error of zero.
    tells = (corrected < 1) & ((independent >= MIN_INDEPENDENT) | (errors == 0))
    return np.where(tells, errors, np.nan)


def _without_line(series: Floats) -> Floats:
    """Return what is left of each series without its mean and its trend."""
    time = np.arange(series.shape[1]) - (series.shape[1] - 1) / 2
    slopes = series @ time / (time @ time)
    rest: Floats = series - series.mean(axis=1, keepdims=True) - slopes[:, None] * time
    return rest


def _autoregression(rest: Floats) -> tuple[Floats, Floats, npt.NDArray[np.int_]]:
    """Fit an autoregression to each series, by Burg's method.

    Returns:
        Variance of the innovations, sum of the coefficients, and the order, each of shape (series,).
    """
    count, steps = rest.shape
    forward, backward = rest[:, 1:], rest[:, :-1]
    variance, coefficients = (rest**2).mean(axis=1), np.zeros((count, 0))
    best = (np.full(count, np.inf), variance, np.zeros(count), np.zeros(count, dtype=int))
    tiny = np.finfo(float).tiny
    for order in range(min(int(10 * np.log10(steps)), steps // 8) + 1):
        if order:
            power = (forward**2).sum(axis=1) + (backward**2).sum(axis=1)
            reflection = 2 * (forward * backward).sum(axis=1, keepdims=True) / np.maximum(power, tiny)[:, None]
            coefficients = np.hstack([coefficients - reflection * coefficients[:, ::-1], reflection])
            variance = variance * (1 - reflection[:, 0] ** 2)
            ahead, behind = forward - reflection * backward, backward - reflection * forward
            forward, backward = ahead[:, 1:], behind[:, :-1]
        # Parameters: the coefficients, the variance and the line.
        score = steps * np.log(np.maximum(variance, tiny)) + 2 * (order + 3) * steps / (steps - order - 4)
        fitted = (score, variance, coefficients.sum(axis=1), np.full(count, order))
        best = tuple(np.where(score < best[0], new, old) for new, old in zip(fitted, best, strict=True))
    return best[1], best[2], best[3]
