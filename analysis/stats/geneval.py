"""GenEval's score, with confidence intervals clustered by prompt.

Source: D. Ghosh, H. Hajishirzi, L. Schmidt, "GenEval" (arXiv 2310.11513). The score is the unweighted mean of the six
tasks' accuracies over images.

An accuracy has Korn and Graubard's interval (1998): Clopper and Pearson's exact one for the effective number of images.
A difference has Student's t over prompts. The interval of the mean over tasks follows from the tasks' own by MOVER (Zou
and Donner 2008). Prompts that all agree have no spread, and yet no certainty: see `_of_equal_prompts`.
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..load.errors import ResultsError
from ..load.geneval_results import TASKS, Results

CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2
OVERALL = "overall"


def scores(results: Results) -> pd.DataFrame:
    """Return the accuracy of each task, and their mean.

    Returns:
        Columns `task`, `prompts`, `images`, `score`, `se` (standard error, clustered by prompt), `low`, `high` (95%
        confidence interval). A task of one prompt has neither error nor interval.
    """
    tasks = _by_prompt(results).groupby("tag", sort=False)
    return _with_mean([_row_of(task, mine["right"] / mine["images"], mine["images"]) for task, mine in tasks])


def _by_prompt(results: Results) -> pd.DataFrame:
    grouped = results.images.groupby(["tag", "prompt"], sort=False)["correct"]
    return grouped.agg(right="sum", images="size").reset_index()


def _row_of(
    task: Any, values: "pd.Series[float]", weights: "pd.Series[int]", *, differences: bool = False
) -> dict[str, Any]:
    """Return the mean over prompts, weighted by images: a ratio of sums, linearized, with the small-sample factor."""
    count, total = len(values), weights.sum()
    score = float((weights * values).sum() / total)
    error = float(np.sqrt(count / max(count - 1, 1) * ((weights * (values - score)) ** 2).sum()) / total)
    reach = float(stats.t.ppf(1 - TAIL, count - 1)) * error
    if count == 1:
        error = low = high = float("nan")
    elif values.nunique() == 1:
        low, high = _of_equal_prompts(score, count, lowest=-1.0 if differences else 0.0)
        error = (high - low) / (2 * float(stats.t.ppf(1 - TAIL, count - 1)))
    elif differences:
        low, high = max(score - reach, -1.0), min(score + reach, 1.0)
    else:
        factor = float(stats.t.ppf(1 - TAIL, total - 1) / stats.t.ppf(1 - TAIL, count - 1))
        effective = min(score * (1 - score) / error**2 * factor**2, float(total))
        right, wrong = score * effective, (1 - score) * effective
        low, high = float(stats.beta.ppf(TAIL, right, wrong + 1)), float(stats.beta.ppf(1 - TAIL, right + 1, wrong))
    return {
        "task": task,
        "prompts": count,
        "images": int(total),
        "score": score,
        "se": error,
        "low": low,
        "high": high,
    }


def _of_equal_prompts(value: float, count: int, lowest: float) -> tuple[float, float]:
    """Return the interval of a mean where all prompts have the same value, at most 1.

    A share of other prompts up to `1 - TAIL ** (1 / count)` stays unseen that often, and these could have any value. At
    0 and at 1 this is Clopper and Pearson's interval with a prompt as the unit.
    """
    unseen = 1 - TAIL ** (1 / count)
    return value - unseen * (value - lowest), value + unseen * (1 - value)


def _with_mean(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the tasks in their order, and their unweighted mean."""
    table = pd.DataFrame(rows).set_index("task").sort_index(key=lambda tasks: tasks.map(list(TASKS).index))
    score = float(table["score"].mean())

    def together(errors: "pd.Series[float]") -> float:
        return float(np.sqrt((errors**2).sum(skipna=False))) / len(table)

    mean = {
        "prompts": table["prompts"].sum(),
        "images": table["images"].sum(),
        "score": score,
        "se": together(table["se"]),
        "low": score - together(table["score"] - table["low"]),
        "high": score + together(table["high"] - table["score"]),
    }
    return pd.concat([table, pd.DataFrame([mean], index=pd.Index([OVERALL], name="task"))]).reset_index(names="task")


def compare(first: Results, second: Results) -> pd.DataFrame:
    """Return the accuracies of the second file minus those of the first, paired by prompt.

    Returns:
        Columns as of `scores`; `score` is the difference.

    Raises:
        ResultsError: the files have no prompt in common.
    """
    keys = ["tag", "prompt"]
    both = _by_prompt(first).merge(_by_prompt(second), on=keys, suffixes=("_first", "_second"))
    if both.empty:
        raise ResultsError(f"{first.name} and {second.name} have no prompt in common")
    rows = []
    for task, mine in both.groupby("tag", sort=False):
        change = mine["right_second"] / mine["images_second"] - mine["right_first"] / mine["images_first"]
        weights = mine["images_first"] + mine["images_second"]
        rows.append(_row_of(task, change, weights, differences=True))
    return _with_mean(rows)
