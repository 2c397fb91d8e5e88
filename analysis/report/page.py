"""A report as one self-contained HTML file and as Markdown."""

import base64
import hashlib
import importlib.metadata
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from lina_lab.config.datasets import DATA_SETS
from lina_lab.records.runstore import THREADS
from lina_lab.util.markup import markdown_text

from ..load.runs import StudyRuns
from .tables import count, markdown, records, rounded

TEMPLATE = "page.html.j2"
SCALE_PERCENT = 65
"""Size of pictures on the page, in percent of their pixels; wider ones are fitted to the page."""
PROSE = 60
"""A table with a cell of more characters has lines that wrap, so that no column lies beyond the page."""
DIRTY = {"true": "with uncommitted changes", "false": "without uncommitted changes"}
UNKNOWN = "uncommitted changes unknown"
PACKAGES = ("lina_lab", "pandas", "numpy", "scipy", "matplotlib", "mlflow")
CAPTIONS = {
    "primary": "Paired differences in the main metric. Open: each seed; filled: mean over seeds with its 95% "
    "confidence interval. Gray: the margin of the primary comparison. Star: holds after the correction.",
    "scaling": "Top: objective against parameters. Points: seeds, moved sideways by variant; thin gray lines join the "
    "variants of a seed; lines: means over seeds. Bottom: differences to the first variant, paired by seed, with "
    "the 95% confidence interval.",
    "samples": "Images that each variant generated at the largest size, from the same noise and conditions column by "
    "column, with averaged weights; bottom: held-out images.",
    "views": "Top: training loss against parameters at equal steps, equal images and equal FLOPs; points of one size "
    "are moved sideways by variant. Bottom: differences to the first variant.",
    "curves": "Top: training curves; the first images are cut off. Bottom: differences to the first variant, paired "
    "by seed, with the 95% confidence interval of their mean.",
    "fits": "Scaling law with shared exponents, a panel for each variant. Points: seeds; band: 90% confidence interval "
    "of the curve; gray: the other variants.",
    "surface": "Scaling law of parameters and images, fitted to checkpoints, a panel for each variant and a curve for "
    "each size. Band: 90% confidence interval of the curve.",
    "profile": "Profile of the irreducible loss E: values that the seeds do not exclude are marked.",
    "compute": "Loss against training FLOPs: a thin line for each size, markers on the frontier. Where sizes can be "
    "compared at equal FLOPs, below: loss against size, with the best size marked.",
    "multipliers": "How many times as many parameters, images or FLOPs the baseline needs for the treatment's loss, "
    "with 90% confidence intervals.",
    "differences": "Paired differences. Open: each seed, with its block standard error where there is one; filled: "
    "mean over seeds, with its 95% confidence interval.",
    "ema_lengths": "Loss and image quality against the length of the averaged weights: mean over seeds and its 95% "
    "confidence interval; below, the difference to the exponential average, paired by seed. Filled: the best length.",
    "foreign_law": "The law and its points, colored by size; below, what the law leaves.",
    "isoflop": "Left: losses at equal FLOPs, a parabola at each budget, and its minimum. Middle: growth of the best "
    "size. Right: loss against FLOPs, with its frontier.",
}
"""Name of a picture -> its caption; further pictures of the kind have names such as samples-2."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the page."""

    title: str
    lines: Sequence[str] = ()
    tables: Sequence[pd.DataFrame] = ()
    pictures: Sequence[Path] = ()
    folded: bool = False
    """Whether the page shows the title only, until a reader opens it."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it: such a section is left out."""
        return not (self.lines or self.pictures or any(len(table) for table in self.tables))


def write_report(folder: Path, title: str, lead: Sequence[str], sections: Sequence[Section]) -> list[Path]:
    """Write `index.html`, which contains everything that it shows, and `report.md`, which links the pictures.

    Args:
        folder: folder of the report, where the pictures are.
        title: title of the report.
        lead: paragraphs before the first section.
        sections: the sections, in order; empty ones are left out.
    """
    sections = [section for section in sections if not section.empty]
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    page, text = folder / "index.html", folder / "report.md"
    rendered = environment.get_template(TEMPLATE).render(
        title=title,
        lead=lead,
        sections=sections,
        table_html=_table_html,
        picture=_picture,
    )
    page.write_text(rendered, encoding="utf-8")
    lines = [f"# {markdown_text(title)}", *(line for one in lead for line in ("", markdown_text(one)))]
    text.write_text("\n".join([*lines, *(line for part in sections for line in _marked_down(part))]) + "\n")
    return [page, text]


def _marked_down(section: Section) -> list[str]:
    opened = ["", "<details>", f"<summary>{escape(section.title)}</summary>", ""]
    lines = opened if section.folded else ["", f"## {markdown_text(section.title)}", ""]
    texts = [markdown_text(line) for line in section.lines]
    lines += texts if len(texts) == 1 else [f"- {text}" for text in texts]
    for picture in section.pictures:
        lines += ["", f"![{markdown_text(_caption(picture))}]({picture.name})"]
    for table in section.tables:
        lines += ["", markdown(_shown(table))] if len(table) else []
    return [*lines, "", "</details>"] if section.folded else lines


def provenance(runs: StudyRuns, pictures: Sequence[Path]) -> Section:
    """Return the section on the code that trained the cells, packages, and hashes of the pictures' numbers."""
    lines = [f"{count(row['cells'], 'cell')}: {_origin(row)}." for row in records(runs.source)]
    lines += [*attributions(runs), *_threads(runs), *versions().lines]
    for picture in pictures:
        numbers = picture.with_suffix(".csv")
        lines.append(f"{numbers.name}: SHA-256 {hashlib.sha256(numbers.read_bytes()).hexdigest()}")
    return Section(title="Provenance", lines=lines, folded=True)


def attributions(runs: StudyRuns) -> list[str]:
    """Say whose work the data are that the cells were trained on, as far as that is known."""
    if "data_name" not in runs.cells:
        return []
    entries = [DATA_SETS.get(name) for name in runs.cells["data_name"].unique()]
    return [f"Data ({each.name}): {each.attribution}." for each in entries if each is not None and each.attribution]


def _threads(runs: StudyRuns) -> list[str]:
    """Say with how many threads cells were trained: rounding depends on it, and so do losses."""
    if THREADS not in runs.cells or runs.cells[THREADS].isna().all():
        return []
    counts = runs.cells[THREADS].dropna().astype(int).value_counts().sort_index()
    cells = [f"{threads} ({count(number, 'cell')})" for threads, number in counts.items()]
    unknown = int(runs.cells[THREADS].isna().sum())
    cells += [f"not recorded ({count(unknown, 'cell')})"] if unknown else []
    mixed = "; rounding differs between them, so their losses may too" if len(cells) > 1 else ""
    return [f"Threads of a process: {', '.join(cells)}{mixed}."]


def _origin(row: Mapping[str, str]) -> str:
    """Say which code trained cells: a commit, or where published runs are from."""
    commit, dirty = row["commit"], row["dirty"]
    return f"commit {commit}, {DIRTY.get(dirty, UNKNOWN)}" if re.fullmatch("[0-9a-f]+", commit) else commit


def versions() -> Section:
    """Return the section on the versions of packages."""
    packages = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in PACKAGES)
    return Section(title="Provenance", lines=[f"Python {platform.python_version()}, {packages}."], folded=True)


def _table_html(table: pd.DataFrame) -> Markup:
    text = rounded(_shown(table))
    wraps = any(len(str(cell)) > PROSE for cell in text.to_numpy().flat)
    return Markup(text.to_html(index=False, border=0, classes="prose" if wraps else None))


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out columns without any value: with one seed there are no intervals."""
    return table.dropna(axis="columns", how="all") if len(table) else table


def _caption(path: Path) -> str:
    name, _, part = path.stem.partition("-")
    caption = CAPTIONS.get(name, path.stem)
    # samples-2 is the second of its kind, curves-diffusion that of a task.
    return f"{part.capitalize()}. {caption}" if part and not part.isdecimal() else caption


def _picture(path: Path) -> Mapping[str, object]:
    data = path.read_bytes()
    # A PNG's header holds its width here. All pictures have the same scale, so that their text has the same size.
    width = int.from_bytes(data[16:20], "big") * SCALE_PERCENT // 100
    return {"caption": _caption(path), "data": base64.b64encode(data).decode(), "width": width}
