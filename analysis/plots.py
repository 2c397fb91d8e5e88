"""Draw every figure and table of a study, and write its report.

  lina plots study=NAME [runs=FOLDER] [out=FOLDER]
  lina plots source=published

source=published draws the authors' own training runs in place of a study. The command reads the run store only, and
writes the numbers of each figure next to it.
"""

if __name__ == "__main__":
    import sys

    from lina_lab.cli import main

    raise SystemExit(main(["plots", *sys.argv[1:]]))

from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass
from yaml import YAMLError

from lina_lab.config import CHECKS
from lina_lab.config.grammar import Command
from lina_lab.util.imports import gc_paused

from .load.errors import StoreError


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class PlotsConfig:
    """Fields of `lina plots`."""

    study: str | None = None
    """The study; for source=runs."""
    source: Literal["runs", "published"] = "runs"
    """runs: a study in the run store; published: the authors' own training runs (`analysis/published`)."""
    runs: str = "runs"
    """Folder of the runs."""
    tracking_uri: str | None = None
    """MLflow's store; null: `mlflow.db` in the folder of runs."""
    out: str = "reports"
    """Folder of the reports; each study is written to a folder of its own in it."""

    def __post_init__(self) -> None:
        if (self.study is None) == (self.source == "runs"):
            raise ValueError("name a study with study=NAME, or set source=published")


def write_report(config: PlotsConfig) -> list[Path]:
    """Write all figures and tables of a study; returns the files.

    Raises:
        StoreError: see `analysis.load.runs.read_study`.
        OSError: the folder cannot be written.
    """
    from .load.published import read_published
    from .load.runs import read_study
    from .report.study_report import analyze_study
    from .report.writer import write_study_report
    from .stats.budgets import TAIL

    if config.study is None:
        report = analyze_study(read_published(), TAIL)
    else:
        report = analyze_study(read_study(config.study, Path(config.runs), config.tracking_uri))
    return write_study_report(report, Path(config.out) / report.runs.study.name)


def run(config: PlotsConfig) -> int:
    """Write the report and print its files; returns 0.

    Raises:
        ValueError: there is nothing to draw.
    """
    try:
        # A report makes millions of objects that stay until it is written; scanning them takes an eighth of its time.
        with gc_paused(freeze_at_end=False):
            files = write_report(config)
    except OSError as error:
        raise ValueError(f"cannot write {error.filename} ({error.strerror}): choose another out=FOLDER") from error
    for file in files:
        print(file)
    return 0


COMMAND = Command(config=PlotsConfig, run=run, doc=__doc__, errors=(StoreError, ValueError, YAMLError))
