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

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from lina_lab.config import CHECKS
from lina_lab.config.grammar import Command

from .load.errors import ResultsError

if TYPE_CHECKING:
    from .load.geneval_results import Results


def describe(results: "Results") -> str:
    """Write the scores of a file as text; an incomplete file is marked."""
    from .report.tables import markdown
    from .stats.geneval import scores

    title = f"{results.name}" + (f"\nPARTIAL, not comparable: {results.missing}" if results.missing else "")
    return f"{title}\n\n{markdown(scores(results))}"


def describe_comparison(first: "Results", second: "Results") -> str:
    """Write the differences between two files as text, and whether the overall interval excludes zero."""
    from .report.tables import markdown
    from .stats.geneval import compare

    table = compare(first, second)
    overall = table.iloc[-1]
    excludes_zero = overall["low"] > 0 or overall["high"] < 0
    partial = "PARTIAL, prompts in common only: " if first.missing or second.missing else ""
    verdict = ("higher" if overall["score"] > 0 else "lower") if excludes_zero else "undecided, zero is in the interval"
    interval = f"95% CI {overall['low']:+.4f} to {overall['high']:+.4f}"
    sentence = f"{partial}{second.name} vs. {first.name}: {overall['score']:+.4f} ({interval}): {verdict}."
    return f"{sentence}\n\n{markdown(table)}"


@dataclass(frozen=True, kw_only=True, config=CHECKS)
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
    from .load.geneval_results import read_results

    files = [config.results] if isinstance(config.results, str) else config.results
    found = [read_results(Path(file), partial=config.partial) for file in files]
    for results in found:
        print(describe(results), end="\n\n")
    for other in found[1:]:
        print(describe_comparison(found[0], other), end="\n\n")
    return 0


COMMAND = Command(config=GenevalConfig, run=run, doc=__doc__, errors=(ResultsError,))
