"""A study's report as files: figures, tables, and the page that shows them."""

from pathlib import Path

import matplotlib.pyplot as plt

from . import page
from .figure_files import PICTURE, write_figures
from .figures import STYLE
from .sections import study_sections
from .study_report import StudyReport, study_figures, study_tables
from .tables import write_table


def write_study_report(report: StudyReport, folder: Path) -> list[Path]:
    """Write all figures and tables of a study, and its page; returns the files.

    Args:
        report: see `study_report.analyze_study`.
        folder: is made if it does not exist.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with plt.style.context(STYLE):
        drawn = study_figures(report)
        files = write_figures(drawn, folder)
    pictures = {name: folder / f"{name}{PICTURE}" for name in drawn}
    tables = study_tables(report)
    for name, table in tables.items():
        files += write_table(table, folder / name)
    checkpoints = folder / "checkpoints.parquet"
    report.runs.checkpoints.to_parquet(checkpoints, index=False)
    study = report.runs.study
    sections = [*study_sections(report, tables, pictures), page.provenance(report.runs, list(pictures.values()))]
    return [*files, checkpoints, *page.write_report(folder, study.name, [study.question.strip()], sections)]
