"""Whether two metrics say the same of the differences between variants, such as a loss and the FID."""

import pandas as pd

from .paired import COMPARED

OUT_OF_LINE = 5.0
"""Two metrics also disagree where one differs by this factor more than the other comparisons let expect."""
MIN_COMPARISONS = 3
"""The median of fewer ratios is no expectation."""


def metric_agreement(means: pd.DataFrame, first: str, second: str, *, same_direction: bool = True) -> pd.DataFrame:
    """Compare the differences in two metrics, for each comparison and size that has both.

    Args:
        means: see `paired.mean_differences`.
        first: the main metric.
        second: the other one.
        same_direction: whether smaller is better in both, or larger in both.

    Returns:
        `comparison`, `treatment`, `baseline`, `size`, `first` and `second` (differences), `opposite` (whether they
        point to different variants), `ratio` (how many times as large the second is as the first and the median ratio
        of all comparisons let expect; NaN for few comparisons), `disagree`.
    """
    keys = [name for name in COMPARED if name not in ("metric", "axis")]
    halves = [means[means["metric"] == name].set_index(keys)["difference"] for name in (first, second)]
    table = pd.DataFrame({"first": halves[0], "second": halves[1]}).dropna().reset_index()
    turned = table["second"] if same_direction else -table["second"]
    opposite = table["first"] * turned < 0
    slopes = (table["second"] / table["first"]).abs()
    ratio = slopes / slopes.median() if len(table) >= MIN_COMPARISONS else slopes * float("nan")
    return table.assign(opposite=opposite, ratio=ratio, disagree=opposite | (ratio > OUT_OF_LINE))
