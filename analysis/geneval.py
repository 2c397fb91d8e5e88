"""Compute GenEval's score from the files of the official tool.

  lina geneval results=results.jsonl
  lina geneval results=[ours.jsonl,other.jsonl] partial=true

Each line is an image: its prompt, the prompt's task (`tag`) and whether a detector found what the prompt asks for
(`correct`). Images of one prompt are not independent, so confidence intervals are clustered by prompt. Two files are
compared prompt by prompt. An incomplete file is refused with what is missing, unless partial=true.

Source: D. Ghosh, H. Hajishirzi, L. Schmidt, "GenEval" (arXiv 2310.11513). The score is the unweighted mean of the six
tasks' accuracies over images.
"""

if __name__ == "__main__":
    import sys

    from lina_lab.cli import main

    raise SystemExit(main(["geneval", *sys.argv[1:]]))

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from scipy import stats

from lina_lab.config import CHECKS
from lina_lab.config.grammar import Command

from .report.tables import markdown

TASKS = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}
"""Task -> prompts; 553 in all."""
IMAGES = 4
"""Images of each prompt."""
FIELDS: dict[str, type] = {"filename": str, "tag": str, "prompt": str, "correct": bool}
CONFIDENCE = 0.95
OVERALL = "overall"


class ResultsError(ValueError):
    """A file of results is damaged or not whole; the message says where and what."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """A file of results."""

    name: str
    images: pd.DataFrame
    """A row for each image: `filename`, `tag`, `prompt`, `correct`."""
    missing: str
    """What a whole file would have besides; empty for one that is whole."""


def read_results(path: Path, *, partial: bool = False) -> Results:
    """Read a file.

    Raises:
        ResultsError: a line is damaged or stands twice, or the file is not whole and `partial` is not set.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path} cannot be read: {error}") from error
    images = pd.DataFrame([_row(path, number, line) for number, line in enumerate(lines, start=1)], columns=[*FIELDS])
    if images.empty:
        raise ResultsError(f"{path} holds no image")
    twice = images[images["filename"].duplicated()]
    if len(twice):
        raise ResultsError(f"{path}: {len(twice)} images stand twice, the first of them {twice.iloc[0]['filename']}")
    missing = _missing(images)
    if missing and not partial:
        raise ResultsError(f"{path} is not whole: {missing}: partial=true accepts it and marks the result")
    return Results(name=str(path), images=images, missing=missing)


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        raise ResultsError(f"{path}, line {number} is not JSON ({error.msg}): the file was cut or mixed up") from error
    if not isinstance(data, dict):
        raise ResultsError(f"{path}, line {number} is not an object")
    for name, kind in FIELDS.items():
        if not isinstance(data.get(name), kind):
            raise ResultsError(f"{path}, line {number}: {name}={data.get(name)!r} is not a {kind.__name__}")
    if data["tag"] not in TASKS:
        raise ResultsError(f"{path}, line {number}: tag={data['tag']!r} is not one of {', '.join(TASKS)}")
    return {name: data[name] for name in FIELDS}


def _missing(images: pd.DataFrame) -> str:
    """What there is too little, or too much, of."""
    parts = []
    for task, wanted in TASKS.items():
        counts = images[images["tag"] == task].groupby("prompt").size()
        # A prompt may stand twice in a task of the official list: its images then come in multiples.
        prompts = int(np.ceil(counts / IMAGES).sum())
        if prompts != wanted:
            parts.append(f"{task} has {prompts} of {wanted} prompts")
        short = int((counts % IMAGES != 0).sum())
        if short:
            parts.append(f"{task} has {short} prompts without {IMAGES} images each")
    whole = IMAGES * sum(TASKS.values())
    if parts and len(images) != whole:
        parts.append(f"{len(images):,} of {whole:,} images")
    return "; ".join(parts)


def scores(results: Results) -> pd.DataFrame:
    """Accuracy of each task, and their mean.

    Returns:
        Columns `task`, `prompts`, `images`, `score`, `se` (clustered by prompt), `low`, `high`.
    """
    prompts = _by_prompt(results)
    rows = [
        _row_of(task, mine["right"] / mine["images"], mine["images"], int(mine["images"].sum()))
        for task, mine in prompts.groupby("tag", sort=False)
    ]
    return _with_mean(pd.DataFrame(rows).set_index("task").reindex([t for t in TASKS if t in set(prompts["tag"])]))


def _by_prompt(results: Results) -> pd.DataFrame:
    grouped = results.images.groupby(["tag", "prompt"], sort=False)["correct"]
    return grouped.agg(right="sum", images="size").reset_index()


def _row_of(task: Any, values: "pd.Series[float]", weights: "pd.Series[float]", images: int) -> dict[str, Any]:
    """The weighted mean of prompts' values; a ratio of sums, linearised, with the small-sample factor."""
    count, total = len(values), weights.sum()
    score = float((weights * values).sum() / total)
    spread = float(np.sqrt(count / max(count - 1, 1) * ((weights * (values - score)) ** 2).sum()) / total)
    error = spread if count > 1 else float("nan")
    return {"task": task, "prompts": count, "images": images, "score": score, "se": error}


def _with_mean(table: pd.DataFrame) -> pd.DataFrame:
    """The tasks, with the row of their unweighted mean and the ends of the intervals."""
    mean = {
        "prompts": table["prompts"].sum(),
        "images": table["images"].sum(),
        "score": table["score"].mean(),
        "se": float(np.sqrt((table["se"] ** 2).sum(skipna=False))) / len(table),
    }
    freedom = table["prompts"] - 1
    # Welch and Satterthwaite; few prompts of one task make the mean's interval wider too.
    scale = max(float((table["se"] ** 4 / freedom).sum()), np.finfo(float).tiny)
    pooled = max(float((table["se"] ** 2).sum() ** 2 / scale), 1.0)
    table = pd.concat([table, pd.DataFrame([mean], index=pd.Index([OVERALL], name="task"))])
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, [*freedom, pooled]) * table["se"]
    return table.assign(low=table["score"] - reach, high=table["score"] + reach).reset_index(names="task")


def compare(first: Results, second: Results) -> pd.DataFrame:
    """The second file's accuracies less the first's, paired by prompt.

    Returns:
        As `scores`; `score` is the difference.

    Raises:
        ResultsError: they have no prompt in common.
    """
    keys = ["tag", "prompt"]
    both = _by_prompt(first).merge(_by_prompt(second), on=keys, suffixes=("_first", "_second"))
    if both.empty:
        raise ResultsError(f"{first.name} and {second.name} have no prompt in common")
    rows = []
    for task, mine in both.groupby("tag", sort=False):
        change = mine["right_second"] / mine["images_second"] - mine["right_first"] / mine["images_first"]
        images = mine["images_first"] + mine["images_second"]
        rows.append(_row_of(task, change, images, int(images.sum())))
    return _with_mean(pd.DataFrame(rows).set_index("task").reindex([t for t in TASKS if t in set(both["tag"])]))


def describe(results: Results) -> str:
    """The scores for people; one of a file that is not whole says so."""
    title = f"{results.name}" + (f"\nPARTIAL, not comparable: {results.missing}" if results.missing else "")
    return f"{title}\n\n{markdown(scores(results))}"


def describe_comparison(first: Results, second: Results) -> str:
    """The differences for people, and whether they are resolved."""
    table = compare(first, second)
    overall = table.iloc[-1]
    resolved = overall["low"] > 0 or overall["high"] < 0
    partial = "PARTIAL, of the prompts in common: " if first.missing or second.missing else ""
    verdict = ("higher" if overall["score"] > 0 else "lower") if resolved else "not resolved"
    ends = f"95% interval {overall['low']:+.4f} to {overall['high']:+.4f}"
    sentence = f"{partial}{second.name} against {first.name}: {overall['score']:+.4f} ({ends}): {verdict}."
    return f"{sentence}\n\n{markdown(table)}"


@checked(frozen=True, kw_only=True, config=CHECKS)
class GenevalConfig:
    """Fields of `lina geneval`."""

    results: str | Annotated[list[str], Field(min_length=1)]
    """File, or list of files, of the official tool (results.jsonl). Each further file is compared with the first."""
    partial: bool = False
    """Accept incomplete files, and mark the result as partial."""


def run(config: GenevalConfig) -> int:
    """Print the scores of each file, and the comparisons; returns 0.

    Raises:
        ResultsError: a file is damaged or incomplete, or two files have no prompt in common.
    """
    files = [config.results] if isinstance(config.results, str) else config.results
    found = [read_results(Path(file), partial=config.partial) for file in files]
    for results in found:
        print(describe(results), end="\n\n")
    for other in found[1:]:
        print(describe_comparison(found[0], other), end="\n\n")
    return 0


COMMAND = Command(config=GenevalConfig, run=run, doc=__doc__, errors=(ResultsError,))
