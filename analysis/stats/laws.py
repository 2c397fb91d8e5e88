"""Scaling laws of loss against size and data, and the result of fitting one."""

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from .status import FitStatus, Refusal

HOFFMANN_DELTA = 1e-3
"""Delta of Hoffmann et al., and of the first pass, whose residuals show the noise."""


class Pooling(StrEnum):
    """What variants share that are fitted together. All share E; each has its own coefficients."""

    OWN_EXPONENTS = "own exponents"
    SHARED_EXPONENTS = "shared exponents"


@dataclass(frozen=True, kw_only=True)
class ScalingLaw:
    """The form of a law."""

    name: str
    inputs: tuple[str, ...]
    """Columns that the loss depends on; the first is the size."""
    irreducible_loss: bool = True
    """Whether the law has the constant E."""
    pooling: Pooling | None = None
    """None: the law of one variant."""
    line: bool = False
    """`L = a + b log(input)` in place of powers."""

    def pinned(self) -> "ScalingLaw":
        """Return the powers alone, of which E is 0 or pinned at a value (see `fit.fit`)."""
        form = power if len(self.inputs) == 1 else surface
        return form(*self.inputs, irreducible_loss=False, pooling=self.pooling)


def power(size: str = "parameters", *, irreducible_loss: bool = True, pooling: Pooling | None = None) -> ScalingLaw:
    """The power law `L = E + A N^-alpha`, or without E. `size` is the column of N."""
    return _powers(f"A {size}^-alpha", (size,), irreducible_loss, pooling)


def surface(
    size: str = "parameters",
    data: str = "images",
    *,
    irreducible_loss: bool = True,
    pooling: Pooling | None = None,
) -> ScalingLaw:
    """The law of size and data, `L = E + A N^-alpha + B D^-beta`, or without E. `size`, `data`: columns of N and D."""
    return _powers(f"A {size}^-alpha + B {data}^-beta", (size, data), irreducible_loss, pooling)


def _powers(terms: str, inputs: tuple[str, ...], irreducible_loss: bool, pooling: Pooling | None) -> ScalingLaw:
    name = f"E + {terms}" if irreducible_loss else terms
    if pooling is not None:
        name += f", shared E and {pooling.removeprefix('shared ')}" if irreducible_loss else f", {pooling}"
    return ScalingLaw(name=name, inputs=inputs, irreducible_loss=irreducible_loss, pooling=pooling)


def log_line(size: str = "parameters") -> ScalingLaw:
    """The line `L = a + b log N`. `size` is the column of N."""
    return ScalingLaw(name=f"a + b log {size}", inputs=(size,), line=True)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The result of a fit. Its numbers may be used only when `status` is `FitStatus.OK`."""

    law: ScalingLaw
    refusal: Refusal | None
    """None for a fit that holds."""
    reason: str
    """The refusal in a sentence, with what to do instead; empty for a fit that holds."""
    variants: tuple[str, ...]
    irreducible_loss: float
    """E, or a of a line; where a law does not fit E, the value at which it is pinned."""
    coefficients: dict[str, tuple[float, ...]]
    """Variant -> coefficient of each input, or b of a line."""
    exponents: dict[str, tuple[float, ...]]
    """Variant -> exponent of each input; a line has none."""
    num_points: int
    """Points that were fitted."""
    dropped: tuple[str, ...] = ()
    """A sentence for each kind of point that was left out."""
    residuals: tuple[float, ...] = field(default=(), repr=False)
    """log(L) - log(fit), in the order of the points."""
    huber: float = float("nan")
    """Log residuals above this count linearly, not squared."""
    cost: float = float("nan")
    """Sum of the Huber losses of the log residuals."""
    gradient: float = float("nan")
    """Largest entry of the cost's gradient at the solution."""
    agreeing_starts: float = float("nan")
    """Share of the polished starts that reached the same cost."""
    aicc: float = float("nan")
    """Akaike's information criterion by the maximized likelihood, corrected for few points. It compares laws that are
    fitted to the same points, and no others."""

    @property
    def status(self) -> FitStatus:
        """Whether the fit holds, and if not, which kind of refusal it is."""
        return FitStatus.OK if self.refusal is None else self.refusal.status

    def predict(self, variant: str, **inputs: float) -> float:
        """The loss of a variant at given inputs."""
        if self.law.line:
            return self.irreducible_loss + self.coefficients[variant][0] * float(np.log(inputs[self.law.inputs[0]]))
        terms = zip(self.coefficients[variant], self.exponents[variant], self.law.inputs, strict=True)
        return self.irreducible_loss + float(sum(a * inputs[name] ** -e for a, e, name in terms))


def free_parameters(law: ScalingLaw, variants: int) -> int:
    """Number of parameters that a law of so many variants has."""
    if law.line:
        return 2
    exponents = len(law.inputs) * (1 if law.pooling is Pooling.SHARED_EXPONENTS else variants)
    return law.irreducible_loss + exponents + len(law.inputs) * variants
