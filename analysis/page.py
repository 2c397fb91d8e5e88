"""A study's report as one self-contained HTML file: question, audit, verdicts, fits, figures, tables, provenance."""

import base64
import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from analysis.runs import StudyRuns
from analysis.tables import records, rounded

TEMPLATE = "page.html.j2"
PACKAGES = ("lina_lab", "pandas", "numpy", "scipy", "matplotlib", "mlflow")
CAPTIONS = {
    "scaling": "The objective against parameters: each seed a point, the line their mean.",
    "views": "Training loss against parameters, at equal steps and at equal images.",
    "curves": "Training curves.",
    "differences": "Paired differences. Open: each seed with its block standard error; full: their mean, 95% interval.",
}


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page."""

    title: str
    lines: Sequence[str] = ()
    tables: Sequence[pd.DataFrame] = ()
    pictures: Sequence[Path] = ()


def write_page(path: Path, runs: StudyRuns, sections: Sequence[Section]) -> Path:
    """Write the page; everything it shows is in it.

    Args:
        path: the file.
        runs: the study.
        sections: its parts; provenance is added.
    """
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    files = [picture for section in sections for picture in section.pictures]
    text = environment.get_template(TEMPLATE).render(
        name=runs.study.name,
        question=runs.study.question.strip(),
        held_equal=runs.study.held_equal,
        sections=[_rendered(section) for section in [*sections, provenance(runs, files)]],
    )
    path.write_text(text, encoding="utf-8")
    return path


def provenance(runs: StudyRuns, pictures: Sequence[Path]) -> Section:
    """Which code made the cells, what this page was made with, and the hashes of the numbers behind each picture."""
    lines = [
        f"{row['cells']} cells at commit {row['commit']}, uncommitted changes: {row['dirty']}"
        for row in records(runs.source)
    ]
    lines.append(f"Python {platform.python_version()}, " + ", ".join(f"{p} {_version(p)}" for p in PACKAGES))
    for picture in pictures:
        numbers = picture.with_suffix(".csv")
        lines.append(f"{numbers.name}: SHA-256 {hashlib.sha256(numbers.read_bytes()).hexdigest()}")
    return Section(title="Provenance", lines=lines)


def _version(package: str) -> str:
    return importlib.metadata.version(package)


def _rendered(section: Section) -> Mapping[str, object]:
    return {
        "title": section.title,
        "lines": [line.removeprefix("- ") for line in section.lines],
        "tables": [Markup(rounded(table).to_html(index=False, border=0)) for table in section.tables],
        "pictures": [
            {
                "caption": CAPTIONS.get(picture.stem, picture.stem),
                "data": base64.b64encode(picture.read_bytes()).decode(),
            }
            for picture in section.pictures
        ],
    }
