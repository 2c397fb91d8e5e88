"""Judge the claims of the paper's abstract, and write its tables with published numbers next to ours.

  lina paper [runs=FOLDER] [geneval=FILE] [out=FOLDER]

Published numbers are read from `analysis/published`, ours from the run store, from a GenEval file and from the model's
own counts. A study that `scale=paper` ran is found as NAME_paper. A study of other images than the published runs' is
evidence for the claims, and no part of the tables. An empty cell shows a dash, and the notes of the table say what is
missing and why.
"""

if __name__ == "__main__":
    import sys

    from lina_lab.cli import main

    raise SystemExit(main(["paper", *sys.argv[1:]]))

from functools import cache
from pathlib import Path

from pydantic.dataclasses import dataclass
from yaml import YAMLError

from lina_lab.config import CHECKS
from lina_lab.config.grammar import Command

from .load.errors import StoreError
from .load.runs import StudyRuns, read_study
from .report.page import Section, versions, write_report
from .report.paper_claims import claims_table
from .report.paper_cost import cost_table, geneval_table
from .report.paper_studies import (
    PaperTable,
    at_paper_scale,
    gate_label,
    locality_label,
    placement_label,
    quality_table,
    scaling_label,
    studied_table,
)
from .report.tables import write_table


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class PaperConfig:
    """Fields of `lina paper`."""

    runs: str = "runs"
    """Folder of the runs."""
    tracking_uri: str | None = None
    """MLflow's store; null: `mlflow.db` in the folder of runs."""
    scaling: str = "normalization_scaling"
    """Our study of normalization, convolution and size."""
    gates: str = "kv_gate"
    """Our study of gates."""
    locality: str = "locality"
    """Our study of convolutions."""
    placement: str = "placement"
    """Our study of softmax in some blocks."""
    quality: str = "normalization_scaling"
    """Our study whose sample quality is compared with the published one."""
    geneval: str | None = None
    """Our results of the official GenEval tool (results.jsonl); null: none."""
    out: str = "reports"
    """Folder of the reports; the tables are written to its folder `paper`."""


def tables(config: PaperConfig) -> list[PaperTable]:
    """Make all tables.

    Raises:
        ResultsError: the GenEval file is damaged or incomplete.
    """

    @cache
    def read(study: str) -> StudyRuns:
        return read_study(study, Path(config.runs), config.tracking_uri)

    named = (config.scaling, config.gates, config.locality, config.placement, config.quality)
    scaling, gates, locality, placement, quality = (at_paper_scale(name, read) for name in named)
    return [
        claims_table((scaling, gates, locality), read),
        studied_table("scaling", "Scaling: variant and size", scaling, read, scaling_label),
        studied_table("gates", "Gates", gates, read, gate_label),
        studied_table("locality", "Locality", locality, read, locality_label),
        studied_table("placement", "Placement of softmax", placement, read, placement_label),
        quality_table(quality, read),
        geneval_table(config.geneval),
        cost_table(),
    ]


def write_tables(config: PaperConfig) -> list[Path]:
    """Write all tables as CSV, Markdown and LaTeX, and a page with their notes; returns the files."""
    folder = Path(config.out) / "paper"
    folder.mkdir(parents=True, exist_ok=True)
    found, files = tables(config), []
    for table in found:
        files += write_table(table.frame, folder / table.name) if len(table.frame) else []
    # The judgements stand open on top; a table without any row is left out, and its folded notes say why.
    sections = [
        Section(
            title=table.title if len(table.frame) else f"{table.title}: nothing is held",
            lines=table.notes,
            tables=[table.frame],
            folded=index > 0,
        )
        for index, table in enumerate(found)
    ]
    lead = ("Published numbers next to ours. A dash is an empty cell; the notes say why it is empty.",)
    return [*files, *write_report(folder, "The paper's tables", lead, [*sections, versions()])]


def run(config: PaperConfig) -> int:
    """Write the tables and say where; 0."""
    try:
        files = write_tables(config)
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from error
    for file in files:
        print(file)
    return 0


COMMAND = Command(config=PaperConfig, run=run, doc=__doc__, errors=(StoreError, ValueError, YAMLError))
