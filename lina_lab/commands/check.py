"""Check whether pictures of shapes show what their captions ask for.

  lina check images=FOLDER out=results.jsonl

Each picture `x.png` lies next to its metadata `x.json`, as `lina shapes` writes them, or in GenEval's layout, as
`lina sample` with prompts writes them. The result is in GenEval's format, for
`lina geneval results=results.jsonl partial=true`.
"""

from pathlib import Path

from pydantic.dataclasses import dataclass

from lina_lab.config import CHECKS
from lina_lab.config.grammar import Command


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class CheckConfig:
    """Fields of `lina check`."""

    images: str
    """Folder of the pictures and their metadata."""
    out: str
    """File of the result."""


def run(config: CheckConfig) -> int:
    """Judge the pictures and print the count; returns 0.

    Raises:
        ValueError: no pictures, or one without metadata.
    """
    from lina_lab.evaluation.prompts.shapes import check

    right, count = check(Path(config.images), Path(config.out))
    print(f"{right:,} of {count:,} are what their captions ask for: {config.out}")
    return 0


COMMAND = Command(config=CheckConfig, run=run, doc=__doc__)
