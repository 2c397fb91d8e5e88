"""A study's report, as one self-contained HTML file and as Markdown: question, audit, verdicts, figures, tables."""

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

from ..load.runs import StudyRuns
from .tables import markdown, records, rounded

TEMPLATE = "page.html.j2"
PACKAGES = ("lina_lab", "pandas", "numpy", "scipy", "matplotlib", "mlflow")
CAPTIONS = {
    "scaling": "The objective against parameters: each seed a point, the line their mean.",
    "views": "Training loss against parameters, at equal steps, equal images and equal FLOPs.",
    "curves": "Training curves.",
    "fits": "The law that all variants share, and each seed. Dark: where the curve may lie; light: where a run may.",
    "surface": "The law of parameters and images, fitted to checkpoints.",
    "profile": "Cost of the fit with E held: where it is flat, the losses do not tell E.",
    "compute": "Loss against FLOPs of training, frontier marked; loss against size at equal FLOPs.",
    "differences": "Paired differences. Open: each seed with its block standard error; full: their mean, 95% interval.",
}


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page."""

    title: str
    lines: Sequence[str] = ()
    tables: Sequence[pd.DataFrame] = ()
    pictures: Sequence[Path] = ()


def write_report(folder: Path, title: str, lead: Sequence[str], sections: Sequence[Section]) -> list[Path]:
    """Write `index.html`, with everything it shows in it, and `report.md`, beside its pictures.

    Args:
        folder: of the report, where the pictures are.
        title: of the report.
        lead: paragraphs before the first part.
        sections: its parts.
    """
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    page, text = folder / "index.html", folder / "report.md"
    rendered = environment.get_template(TEMPLATE).render(
        title=title,
        lead=lead,
        sections=[_rendered(section) for section in sections],
    )
    page.write_text(rendered, encoding="utf-8")
    lines = [f"# {title}", *(line for paragraph in lead for line in ("", paragraph))]
    text.write_text("\n".join([*lines, *(line for part in sections for line in _marked_down(part))]) + "\n")
    return [page, text]


def _marked_down(section: Section) -> list[str]:
    lines = ["", f"## {section.title}", ""]
    lines += [line if line.startswith("- ") or len(section.lines) == 1 else f"- {line}" for line in section.lines]
    for table in section.tables:
        lines += ["", markdown(table)]
    for picture in section.pictures:
        lines += ["", f"![{CAPTIONS.get(picture.stem, picture.stem)}]({picture.name})"]
    return lines


def provenance(runs: StudyRuns, pictures: Sequence[Path]) -> Section:
    """Which code made the cells, what this page was made with, and the hashes of the numbers behind each picture."""
    lines = [
        f"{row['cells']} cells at commit {row['commit']}, uncommitted changes: {row['dirty']}"
        for row in records(runs.source)
    ]
    lines += versions().lines
    for picture in pictures:
        numbers = picture.with_suffix(".csv")
        lines.append(f"{numbers.name}: SHA-256 {hashlib.sha256(numbers.read_bytes()).hexdigest()}")
    return Section(title="Provenance", lines=lines)


def versions() -> Section:
    """What a report was made with."""
    packages = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in PACKAGES)
    return Section(title="Provenance", lines=[f"Python {platform.python_version()}, {packages}"])


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
