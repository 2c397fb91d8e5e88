"""GenEval's score, with confidence intervals clustered by prompt.

Source: D. Ghosh, H. Hajishirzi, L. Schmidt, "GenEval" (arXiv 2310.11513). The score is the unweighted mean of the six
tasks' accuracies over images.
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..load.geneval_results import TASKS, Results, ResultsError

CONFIDENCE = 0.95
OVERALL = "overall"


def scores(results: Results) -> pd.DataFrame:
    """Return the accuracy of each task, and their mean.

    Returns:
        Columns `task`, `prompts`, `images`, `score`, `se` (standard error, clustered by prompt), `low`, `high` (95%
        confidence interval).
    """
    prompts = _by_prompt(results)
    tasks = prompts.groupby("tag", sort=False)
    return _with_mean([_row_of(task, mine["right"] / mine["images"], mine["images"]) for task, mine in tasks])


def _by_prompt(results: Results) -> pd.DataFrame:
    grouped = results.images.groupby(["tag", "prompt"], sort=False)["correct"]
    return grouped.agg(right="sum", images="size").reset_index()


def _row_of(task: Any, values: "pd.Series[float]", weights: "pd.Series[int]") -> dict[str, Any]:
    """Return the mean over prompts, weighted by images: a ratio of sums, linearized, with the small-sample factor."""
    count, total = len(values), weights.sum()
    score = float((weights * values).sum() / total)
    spread = float(np.sqrt(count / max(count - 1, 1) * ((weights * (values - score)) ** 2).sum()) / total)
    error = spread if count > 1 else float("nan")
    return {"task": task, "prompts": count, "images": int(total), "score": score, "se": error}


def _with_mean(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the tasks in their order and their unweighted mean, with the ends of the confidence intervals."""
    table = pd.DataFrame(rows).set_index("task").sort_index(key=lambda tasks: tasks.map(list(TASKS).index))
    mean = {
        "prompts": table["prompts"].sum(),
        "images": table["images"].sum(),
        "score": table["score"].mean(),
        "se": float(np.sqrt((table["se"] ** 2).sum(skipna=False))) / len(table),
    }
    freedom = table["prompts"] - 1
    # Welch-Satterthwaite: a task with few prompts also widens the interval of the mean.
    scale = max(float((table["se"] ** 4 / freedom).sum()), np.finfo(float).tiny)
    pooled = max(float((table["se"] ** 2).sum() ** 2 / scale), 1.0)
    table = pd.concat([table, pd.DataFrame([mean], index=pd.Index([OVERALL], name="task"))])
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, [*freedom, pooled]) * table["se"]
    return table.assign(low=table["score"] - reach, high=table["score"] + reach).reset_index(names="task")


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
        rows.append(_row_of(task, change, mine["images_first"] + mine["images_second"]))
    return _with_mean(rows)
