"""LaTeX takes the tables of reports: compiled by Debian's, with nothing but its base packages."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from lina_lab.analysis.load.published import read_published
from lina_lab.analysis.load.runs import StudyRuns
from lina_lab.analysis.report.study_report import analyze_study, study_tables
from lina_lab.analysis.report.tables import write_table

from tests.analysis.test_compare import subtraction_is_worse
from tests.util.test_markup import TEXTS

pytestmark = pytest.mark.system
DOCUMENT = r"""\documentclass{article}
\let\toprule\hline \let\midrule\hline \let\bottomrule\hline
\begin{document}
%s
\end{document}
"""
LETTERS = "αβγδεζηθικλμνξοπρστυφχψωςΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ άΏ éäßøłñç"
MARKS = "−–—…µ°·±×÷²³¹≤≥≠≈∼∝→←∞√∈∑∏∂∇∆ “x” ‘y’ \" ' `"


def compiled(tables: list[Path], folder: Path) -> str:
    """Compile all tables in one document, and return what LaTeX logged."""
    inputs = "\n\n".join(rf"\input{{{path.resolve()}}}" for path in tables)
    (folder / "all.tex").write_text(DOCUMENT % inputs)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / "all.pdf").stat().st_size > 1000
    return (folder / "all.log").read_text(errors="replace")


def written(tables: dict[str, pd.DataFrame], folder: Path) -> list[Path]:
    return [write_table(table, folder / name)[-1] for name, table in tables.items() if len(table)]


def test_every_mark_in_any_place_of_a_table_compiles(tmp_path: Path) -> None:
    texts = [*TEXTS, LETTERS, MARKS, "[1, 2]", "*"]
    table = pd.DataFrame({text: [*texts, "x"] for text in texts[:12]} | {LETTERS: 1.0, MARKS: 2.0})
    log = compiled(written({"marks": table}, tmp_path), tmp_path)
    assert "Missing character" not in log


def test_every_table_of_a_study_compiles_whatever_its_variants_are_called(
    planted: Callable[..., StudyRuns], tmp_path: Path
) -> None:
    runs = planted(subtraction_is_worse)
    labels = {"normalization": ["50%_div & <i>x</i>", "sub|_$1^{2}~#\\x"], "convolution": ["σ ± {1}", "[*] −"]}
    names = dict(zip(runs.variants, map(", ".join, product(*labels.values())), strict=True))
    for frame in (runs.cells, runs.history, runs.checkpoints):
        frame["variant"] = frame["variant"].astype(str).map(names)
    runs = replace(runs, study=replace(runs.study, labels=labels))
    tables = study_tables(analyze_study(runs))
    assert {"table", "difference_table", "fit_table"} <= set(tables)
    compiled(written(tables, tmp_path), tmp_path)


def test_every_table_of_the_published_runs_compiles(tmp_path: Path) -> None:
    compiled(written(study_tables(analyze_study(read_published())), tmp_path), tmp_path)
