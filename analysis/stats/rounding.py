"""How far a variant amplifies rounding: the same seed twice, with the sums in another order, beside other seeds."""

import numpy as np
import pandas as pd

from ..load.runs import StudyRuns

COLUMNS = ["metric", "variant", "size", "pairs", "largest change", "SD of rounding", "SD of seeds", "rounding / seeds"]


def rounding_deviations(runs: StudyRuns) -> pd.DataFrame:
    """Return a row for each objective, variant and size of which cells were trained a second time.

    If both trainings of a pair deviate independently by rounding, with variance s^2 each, the mean square of their
    difference is 2 s^2. So the standard deviation of one training by rounding is the root of half of that mean.

    Args:
        runs: the study.

    Returns:
        The columns COLUMNS: pairs of trainings, the largest change between the two of a pair, the standard deviation of
        one training by rounding, that over seeds (NaN for one seed), and their ratio (NaN where seeds do not differ).
    """
    if runs.again.empty:
        return pd.DataFrame(columns=COLUMNS)
    pairs = runs.cells.merge(runs.again, on=["variant", "size", "seed"], suffixes=("", " again"))
    rows = []
    for metric in runs.objectives:
        pairs["change"] = (pairs[f"{metric} again"] - pairs[metric]).abs()
        known = pairs[np.isfinite(pairs["change"])]
        for variant, size in known[["variant", "size"]].drop_duplicates().itertuples(index=False):
            changes = known[(known["variant"] == variant) & (known["size"] == size)]["change"].to_numpy(dtype=float)
            cells = runs.cells[(runs.cells["variant"] == variant) & (runs.cells["size"] == size)]
            rounding, seeds = float(np.sqrt((changes**2).mean() / 2)), float(cells[metric].std(ddof=1))
            ratio = rounding / seeds if seeds > 0 else float("nan")
            rows.append((metric, variant, size, len(changes), changes.max(), rounding, seeds, ratio))
    return pd.DataFrame(rows, columns=COLUMNS)
