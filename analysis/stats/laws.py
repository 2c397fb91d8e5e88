"""Laws of loss against size and data, and what came of fitting one."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Share = Literal["offset", "offset and exponents"]
Status = Literal["ok", "not identifiable", "at an edge", "not converged"]


@dataclass(frozen=True, kw_only=True)
class ScalingLaw:
    """A form. `inputs` are names of columns, the first one the size."""

    name: str
    inputs: tuple[str, ...]
    offset: bool = True
    share: Share | None = None
    """What the variants of a pooled fit have in common; None: one variant."""
    line: bool = False
    """`L = a + b log(input)` in place of powers."""


def power(size: str = "parameters", *, offset: bool = True, share: Share | None = None) -> ScalingLaw:
    """`L = E + A N^-alpha`, or without E."""
    return _powers(f"A {size}^-alpha", (size,), offset, share)


def surface(
    size: str = "parameters", data: str = "images", *, offset: bool = True, share: Share | None = None
) -> ScalingLaw:
    """`L = E + A N^-alpha + B D^-beta`, or without E."""
    return _powers(f"A {size}^-alpha + B {data}^-beta", (size, data), offset, share)


def _powers(terms: str, inputs: tuple[str, ...], offset: bool, share: Share | None) -> ScalingLaw:
    shared = {None: "", "offset": ", own exponents", "offset and exponents": ", shared exponents"}[share]
    if share is not None and offset:
        shared = shared.replace("shared exponents", "shared E and exponents").replace("own", "shared E and own")
    return ScalingLaw(name=("E + " if offset else "") + terms + shared, inputs=inputs, offset=offset, share=share)


def log_line(size: str = "parameters") -> ScalingLaw:
    """`L = a + b log N`."""
    return ScalingLaw(name=f"a + b log {size}", inputs=(size,), line=True)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What came of a fit. Numbers are for use when `status` is "ok" alone."""

    law: ScalingLaw
    status: Status
    reason: str
    """Why the status is not "ok", and what to do instead; empty else."""
    variants: tuple[str, ...]
    offset: float
    """E, or a of a line; 0 without one."""
    coefficients: dict[str, tuple[float, ...]]
    """Variant -> coefficient of each input, or b of a line."""
    exponents: dict[str, tuple[float, ...]]
    """Variant -> exponent of each input; of a line: none."""
    used: int
    dropped: tuple[str, ...] = ()
    """A sentence for each kind of point that was left out."""
    residuals: tuple[float, ...] = field(default=(), repr=False)
    """log(L) - log(fit), in the order of the points used."""
    cost: float = float("nan")
    """Sum of Huber losses of the log residuals."""
    gradient: float = float("nan")
    """Largest entry of the cost's gradient at the solution."""
    agreeing_starts: float = float("nan")
    """Share of the polished starts that came to the same cost."""
    aicc: float = float("nan")

    @property
    def free(self) -> int:
        """Parameters that were fitted."""
        return free_parameters(self.law, len(self.variants))

    def predict(self, variant: str, **inputs: float) -> float:
        """The loss of a variant at given inputs."""
        if self.law.line:
            return self.offset + self.coefficients[variant][0] * float(np.log(inputs[self.law.inputs[0]]))
        terms = zip(self.coefficients[variant], self.exponents[variant], self.law.inputs, strict=True)
        return self.offset + float(sum(a * inputs[name] ** -e for a, e, name in terms))


def free_parameters(law: ScalingLaw, variants: int) -> int:
    """Parameters of a law for so many variants."""
    if law.line:
        return 2
    exponents = len(law.inputs) * (1 if law.share == "offset and exponents" else variants)
    return law.offset + exponents + len(law.inputs) * variants
