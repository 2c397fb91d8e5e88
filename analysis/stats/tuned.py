"""The values that a study tuned for each variant and size."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..load.runs import StudyRuns

if TYPE_CHECKING:
    from lina_lab.decisions.tuning import Choice


@dataclass(frozen=True, kw_only=True)
class TunedRate:
    """The tuned value of a variant at a size."""

    variant: str
    size: Any
    field: str
    """The field that was tuned, such as `optimizer.lr`."""
    choice: "Choice"
    tried: Mapping[float, tuple[float, ...]]
    """Value -> the objective of each tuning seed; infinite where it diverged, NaN where it is missing."""


def choices(runs: StudyRuns) -> tuple[TunedRate, ...]:
    """Return the choice for each variant and size that was tuned, by the rule that the study itself follows."""
    raise NotImplementedError


def tuned_rates(runs: StudyRuns) -> pd.DataFrame | None:
    """Return the tuned values as a table; None where nothing was tuned.

    Returns:
        `variant`, `size`, `field`, `value`, `status`, `curvature`, `log_deviation`, `regret` (see `Choice`), `seeds`,
        `tried` (the values, as text).
    """
    raise NotImplementedError
