"""Tables and figures of a planted study, and what the command says where there is nothing to draw."""

import re
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from lina_lab.analysis import plots
from lina_lab.analysis.load.runs import StudyRuns
from lina_lab.analysis.report import figures
from lina_lab.analysis.report.figure_files import write_figures
from lina_lab.analysis.report.forest import differences_figure
from lina_lab.analysis.report.narrative import design_sentences
from lina_lab.analysis.report.study_report import analyze_study
from lina_lab.analysis.report.tables import rounded, summary_table, write_table
from lina_lab.analysis.stats.exploratory import exploratory
from lina_lab.analysis.stats.laws import ScalingLaw, power, surface
from lina_lab.analysis.stats.paired import paired_differences
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from mlflow import MlflowClient

from lina_lab.records.runstore import quiet_logs
from tests.analysis.test_compare import subtraction_is_worse

Planted = Callable[..., StudyRuns]


def test_summary_has_a_row_a_variant_and_size_in_the_study_s_order(planted: Planted) -> None:
    runs = planted(subtraction_is_worse)
    table = summary_table(runs)
    assert list(table["variant"][:4]) == [
        "division, no convolution",
        "division, depthwise",
        "subtraction, no convolution",
        "subtraction, depthwise",
    ]
    assert list(table["size"]) == [16] * 4 + [32] * 4
    row = table.iloc[0]
    assert (row["parameters"], row["seeds"]) == (256, 3)
    assert row["val loss, EMA"] == pytest.approx(2.0, abs=0.002)
    seeds = runs.cells[(runs.cells["variant"] == "division, no convolution") & (runs.cells["size"] == 16)]
    assert row["SD EMA"] == pytest.approx(statistics.stdev(seeds["val/loss_ema"]))
    assert row["val loss, raw"] == pytest.approx(2.1, abs=0.002)


def test_tables_are_written_in_three_forms(tmp_path: Path) -> None:
    table = pd.DataFrame({"change": ["a_b − c", "d"], "95% low": [0.123456, None], "parameters": [1234.0, 5.0]})
    csv, markdown, latex = write_table(table, tmp_path / "table")
    assert pd.read_csv(csv)["95% low"][0] == 0.123456
    assert "|  0.1235 |        1,234 |" in markdown.read_text().replace("|    0.1235", "|  0.1235")
    text = latex.read_text()
    assert r"\toprule" in text
    assert r"a\_b $-$ c & 0.1235 & 1,234 \\" in text
    assert r"95\% low" in text


SPECIAL = "50%_div & <i>x</i> | sub|traction_$1^{2}~#\\x"


def cells_of_latex(line: str) -> list[str]:
    """A row as LaTeX reads it: an ampersand after a backslash is text."""
    return [cell.strip() for cell in re.split(r"(?<!\\)&", line.removesuffix(r"\\"))]


def test_any_label_is_one_cell_of_latex_and_its_marks_are_text(tmp_path: Path) -> None:
    table = pd.DataFrame({SPECIAL: [SPECIAL, "[1, 2]", "*"], "y": [0.5, 1.5, 2.5]})
    *_, latex = write_table(table, tmp_path / "table")
    head, first, bracket, star = [
        cells_of_latex(line) for line in latex.read_text(encoding="utf-8").splitlines() if line.endswith(r"\\")
    ]
    marks = r"50\%\_div \& \textless{}i\textgreater{}x\textless{}/i\textgreater{} \textbar{} sub\textbar{}traction"
    marks += r"\_\$1\textasciicircum{}\{2\}\textasciitilde{}\#\textbackslash{}x"
    assert head == [marks, "y"]
    assert first == [marks, "0.5000"]
    # Right after the end of a row, a bracket or a star would be an argument of that end.
    assert bracket == ["{}[1, 2]", "1.5000"]
    assert star == ["{}*", "2.5000"]


@pytest.mark.parametrize("law", [power(), surface()], ids=lambda law: law.name)
def test_the_name_of_a_law_needs_no_mathematics_around_it_in_latex(tmp_path: Path, law: ScalingLaw) -> None:
    """A circumflex outside of mathematics ends LaTeX with `Missing $ inserted`."""
    *_, latex = write_table(pd.DataFrame({"law": [law.name]}), tmp_path / "table")
    text = latex.read_text()
    assert r"parameters$^{-\alpha}$" in text
    assert "^" not in re.sub(r"\$.*?\$", "", text)


def test_a_bar_in_a_label_is_no_border_of_a_markdown_table(tmp_path: Path) -> None:
    """A bar after a backslash is text, unless the backslash is one itself (GitHub Flavored Markdown, 4.10)."""
    labels = ["a|b", "a\\|b", "a\\\\|b", "two\nlines"]
    _, markdown, _ = write_table(pd.DataFrame({"x|y": labels, "z": range(4)}), tmp_path / "table")
    rows = [re.findall(r"(?:\\.|[^|\\])+", line) for line in markdown.read_text().splitlines()]
    cells = [row[0].strip() for row in rows]
    assert {len(row) for row in rows} == {2}
    assert cells[0] == r"x\|y"
    assert cells[2:] == [r"a\|b", r"a\\\|b", r"a\\\\\|b", "two lines"]


def test_a_missing_number_is_a_dash() -> None:
    assert rounded(pd.DataFrame({"x": [0.5, None]}))["x"].tolist() == ["0.5000", "–"]


def written(runs: StudyRuns, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[set[str], str]:
    """Names of the report's files, and its text."""
    monkeypatch.setattr("lina_lab.analysis.load.runs.read_study", lambda *_: runs)
    files = plots.write_report(plots.PlotsConfig(study="planted", out=str(folder)))
    return {path.name for path in files}, (folder / "planted/report.md").read_text()


def test_report_has_results_and_excluded_runs(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = planted(subtraction_is_worse)
    runs.excluded.loc[0] = ["abc", "division none 16 seed 3", "failed", "RuntimeError: planted"]
    _, text = written(runs, tmp_path, monkeypatch)
    assert "Is the truth found?" in text
    loses, wins = "subtraction vs. division (no convolution)", "depthwise vs. no convolution (division)"
    lines = text.splitlines()
    assert f"- {loses}: higher at 16 and 32." in lines
    assert f"- {wins}: lower at 16 and 32." in lines
    row = next(line for line in lines if line.startswith(f"| {loses}"))
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["difference", "16"]
    assert float(row.split("|")[4]) == pytest.approx(0.03, abs=0.002)
    rises = next(line for line in lines if line.startswith(f"| {loses}") and " 16 to 32 " in line)
    assert float(rises.split("|")[4]) == pytest.approx(0.02, abs=0.002)
    assert "division none 16 seed 3 (abc): failed, RuntimeError: planted" in text
    assert all((tmp_path / "planted" / name).exists() for name in re.findall(r"!\[.*?\]\((.*?)\)", text))


def test_a_shape_that_changes_with_size_is_reported_and_does_not_forbid_a_law(planted: Planted) -> None:
    runs = planted(subtraction_is_worse)
    heads = runs.cells.assign(**{"channels of a head": runs.cells["size"] // 2, "heads": 2})
    report = analyze_study(replace(runs, cells=heads))
    equal, shape, laws = design_sentences(report.runs, report.views)
    assert equal == "Equal for all cells: heads (2)."
    assert shape == "Change with size in the model's shape: channels of a head (8 at 16, 16 at 32)."
    assert laws.startswith("No factor of training confounds a law in size at the end of training, a law in size")
    assert report.fits is not None


def test_report_of_one_seed_says_that_there_is_no_interval(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, text = written(planted(subtraction_is_worse, seeds=1), tmp_path, monkeypatch)
    assert text.count("Every cell has one seed, so no difference can be judged against seeds.") == 1
    assert "deviation needed" in text
    assert "not resolved" not in text
    assert "undecided" not in text.partition("<details>")[0]
    assert "lower at" not in text
    assert "95% CI low" not in text
    assert not re.search(r"\bnan\b", text)


def forest(runs: StudyRuns, *metrics: str) -> tuple[Figure, pd.DataFrame]:
    return differences_figure(runs, paired_differences(runs), exploratory(runs), metrics)


def test_many_seeds_are_drawn_as_a_band(planted: Planted) -> None:
    runs = planted(subtraction_is_worse, seeds=figures.MAX_LINES + 1)
    for figure, _ in (figures.curves_figure(runs), forest(runs, "val/loss_ema")):
        assert all(axes.collections for axes in figure.axes)
        assert all(len(axes.lines) < 3 * figures.MAX_LINES for axes in figure.axes)
    plt.close("all")


def test_every_seed_is_in_the_scaling_figure(planted: Planted) -> None:
    runs = planted(subtraction_is_worse)
    figure, numbers = figures.scaling_figure(runs)
    lines = [line for line in figure.axes[0].lines if line.get_linestyle() == "None"]
    drawn = np.concatenate([line.get_ydata() for line in lines])
    assert sorted(drawn) == sorted(runs.cells["val/loss_ema"])
    # Variants of one size stand beside each other, nearer to their own size than to the next.
    places = [tuple(line.get_xdata()) for line in lines]
    assert len(set(places)) == len(runs.variants)
    assert all(abs(np.log(x / size)).min() < np.log(4) / 3 for p in places for x, size in [(np.array(p[:1]), 256.0)])
    assert len(numbers) == len(runs.cells)
    plt.close(figure)


def test_curves_and_differences_have_their_panels(planted: Planted) -> None:
    runs = planted(subtraction_is_worse)
    curves, _ = figures.curves_figure(runs)
    assert [axes.get_title() for axes in curves.axes] == ["size 16", "size 32", "", ""]
    assert curves.axes[2].get_ylabel() == "minus the first variant"
    differences, numbers = forest(runs, "val/loss_ema", "train/loss")
    names = ["difference in validation loss (EMA)", "difference in training loss"]
    assert [axes.get_xlabel() for axes in differences.axes] == names
    rows = [label.get_text().removesuffix(" *") for label in differences.axes[0].get_yticklabels()]
    assert rows[:3] == ["subtraction vs. division (no convolution)", "size 16", "size 32"]
    assert len(rows) == 4 * 3
    assert set(numbers["metric"]) == {"train/loss", "val/loss_ema"}
    plt.close("all")


def test_one_variant_has_nothing_to_compare_it_with(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = planted(subtraction_is_worse)
    alone = replace(
        runs,
        cells=runs.cells[runs.cells["variant"] == "division, no convolution"],
        history=runs.history[runs.history["variant"] == "division, no convolution"],
        checkpoints=runs.checkpoints[runs.checkpoints["variant"] == "division, no convolution"],
    )
    names, text = written(alone, tmp_path, monkeypatch)
    assert "scaling.png" in names
    assert "differences.png" not in names
    assert "There is nothing to compare" in text
    assert "There is one variant, so there is nothing to pool." in text


def test_help_shows_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert plots.COMMAND.main(["--help"]) == 0
    assert "lina plots study=NAME" in capsys.readouterr().out


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert plots.COMMAND.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_missing_store_is_reported_with_the_command_that_makes_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "lina run study=planted" in complaint(capsys, "study=planted")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_study_is_refused_with_those_that_exist(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    quiet_logs()
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.create_experiment("other")
    assert "has no study planted; it has other" in complaint(capsys, "study=planted", f"runs={tmp_path}")
    assert "was not written by a study" in complaint(capsys, "study=other", f"runs={tmp_path}")


def test_a_damaged_store_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 500)
    assert "the run store cannot be read" in complaint(capsys, "study=planted", f"runs={tmp_path}")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [([], "study"), (["study=a", "run=b"], "run is not a field"), (["study=x("], "quote the value")],
)
def test_wrong_arguments_are_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], part: str) -> None:
    assert part in complaint(capsys, *arguments)


def test_a_figure_is_drawn_once_for_each_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layout too is made once, or the two files could differ."""
    drawn, laid_out = [], []
    draw, execute = Figure.draw, ConstrainedLayoutEngine.execute
    monkeypatch.setattr(Figure, "draw", lambda self, renderer: (drawn.append(1), draw(self, renderer)))
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda self, fig: (laid_out.append(1), execute(self, fig)))
    with plt.style.context(figures.STYLE):
        figure, axes = plt.subplots()
        axes.plot([1, 2], [3, 4])
        png, pdf, csv = write_figures({"line": (figure, pd.DataFrame({"x": [1, 2]}))}, tmp_path)
    assert (len(drawn), len(laid_out)) == (2, 1)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert pdf.read_bytes().startswith(b"%PDF")
    assert csv.read_text().split() == ['"x"', "1", "2"]
