"""All tables of `lina paper`, and their page."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..load.runs import StudyRuns, read_study
from .page import Section, versions, write_report
from .paper_claims import claims_table
from .paper_cost import cost_table, geneval_table
from .paper_studies import (
    PaperTable,
    at_paper_scale,
    gate_label,
    locality_label,
    placement_label,
    quality_table,
    scaling_label,
    studied_table,
)
from .tables import write_table

if TYPE_CHECKING:
    from ..paper import PaperConfig


def tables(config: "PaperConfig") -> list[PaperTable]:
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


def write_tables(config: "PaperConfig") -> list[Path]:
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
