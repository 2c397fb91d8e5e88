"""All that is estimated from a table of runs, variant by variant, under the names that programs read."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..load.tables import ForeignPoints
from .laws import ScalingLaw, power, surface
from .run_compute import RunCompute, analyze_runs
from .run_laws import Number, NumberStatus, RunLaw, fit_run_law, held_out, no_number, with_range
from .status import FitStatus

PROPORTIONAL = 0.999
"""Correlation of log size and log data above which their powers cannot be told apart."""
ONE_AMOUNT = "All runs have one amount of data, so the law is one of size alone."
TOGETHER = "Data grows in proportion to size, so their powers cannot be told apart: the law is one of size alone."
NO_DATA = "The table has no amounts of data, so the law is one of size alone."
NO_FLOPS = "the table has neither amounts of data nor FLOPs"


@dataclass(frozen=True, kw_only=True)
class VariantFit:
    """What is estimated for one variant."""

    name: str
    points: pd.DataFrame
    law: RunLaw
    """The law with E; its numbers are ranges where E is not determined."""
    without: RunLaw
    """The law without E, of the same points."""
    note: str
    """Why the law has no term of data; empty where it has one."""
    held_out: Number
    """Measured over predicted loss at the largest sizes, less 1, of the law fitted without them."""
    compute: RunCompute | None
    """None where FLOPs are not known."""

    @property
    def preferred(self) -> RunLaw:
        """The law that holds: with E, or without it where E cannot be fitted."""
        return self.law if self.law.holds else self.without

    @property
    def numbers(self) -> dict[str, Number]:
        """All numbers by their dotted names."""
        level = self.held_out.estimate.level
        missing = no_number(FitStatus.NOT_IDENTIFIABLE, NO_FLOPS, level)
        found = self.compute
        laws = {"law": self.law, "law_without_E": self.without}
        return {
            **{f"{law}.{name}": number for law, part in laws.items() for name, number in part.numbers.items()},
            "held_out.error": self.held_out,
            "best_size.exponent": missing if found is None else found.best_size,
            "best_data.exponent": missing if found is None else found.best_data,
            "frontier.exponent": missing if found is None else found.frontier_exponent,
        }


def fit_variants(table: ForeignPoints, *, huber: float | None, level: float) -> list[VariantFit]:
    """Estimate everything for each variant.

    Args:
        table: the points.
        huber: log residuals above this count linearly; None: follows the noise.
        level: confidence level.
    """
    return [_fit_variant(name, table.points, huber, level) for name in table.variants]


def _fit_variant(name: str, points: pd.DataFrame, huber: float | None, level: float) -> VariantFit:
    mine = points[points["variant"] == name].reset_index(drop=True)
    note = _why_size_alone(mine)
    free, pinned = (_law(size_alone=bool(note), irreducible_loss=flag) for flag in (True, False))
    without = fit_run_law(mine, pinned, huber=huber, level=level)
    law = with_range(fit_run_law(mine, free, huber=huber, level=level), without)
    return VariantFit(
        name=name,
        points=mine,
        law=law,
        without=without,
        note=note,
        held_out=held_out(mine, free if law.fit.status is FitStatus.OK else pinned, huber=huber, level=level),
        compute=analyze_runs(mine, level=level),
    )


def _law(*, size_alone: bool, irreducible_loss: bool) -> ScalingLaw:
    if size_alone:
        return power("N", irreducible_loss=irreducible_loss)
    return surface("N", "D", irreducible_loss=irreducible_loss)


def _why_size_alone(points: pd.DataFrame) -> str:
    """Return why the law has no term of data; empty where it has one."""
    if "D" not in points:
        return NO_DATA
    if points["D"].nunique() == 1:
        return ONE_AMOUNT
    sizes, data = np.log(points["N"]), np.log(points["D"])
    together = points["N"].nunique() > 1 and np.corrcoef(sizes, data)[0, 1] > PROPORTIONAL
    return TOGETHER if together else ""


def warnings(variant: VariantFit) -> list[str]:
    """Return a sentence for each number that says that a law does not hold where it is used."""
    numbers = variant.numbers.items()
    return [f"{name} is {n.estimate.value:+.2%}, {n.reason}" for name, n in numbers if n.status is NumberStatus.WARNING]
