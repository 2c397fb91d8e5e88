"""Tables and figures of a planted study, and what the command says where there is nothing to draw."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from mlflow import MlflowClient

from analysis import plots
from analysis.compare import over_seeds, paired_differences, with_size
from analysis.runs import StudyRuns
from analysis.tables import report, rounded, summary_table, write_table
from lina_lab.runstore import quiet_logs
from tests.analysis.test_compare import subtraction_is_worse

Planted = Callable[..., StudyRuns]


def test_summary_has_a_row_a_variant_and_size_in_the_study_s_order(planted: Planted) -> None:
    table = summary_table(planted(subtraction_is_worse))
    assert list(table["variant"][:4]) == [
        "division, none",
        "division, depthwise",
        "subtraction, none",
        "subtraction, depthwise",
    ]
    assert list(table["size"]) == [16] * 4 + [32] * 4
    row = table.iloc[0]
    assert (row["parameters"], row["seeds"]) == (256, 3)
    assert row["val loss, EMA"] == pytest.approx(2.0, abs=0.002)
    assert 0 < row["sd EMA"] < 0.002


def test_tables_are_written_in_three_forms(tmp_path: Path) -> None:
    table = pd.DataFrame({"change": ["a_b − c", "d"], "95% low": [0.123456, None], "parameters": [1234.0, 5.0]})
    csv, markdown, latex = write_table(table, tmp_path / "table")
    assert pd.read_csv(csv)["95% low"][0] == 0.123456
    assert "|  0.1235 |        1,234 |" in markdown.read_text().replace("|    0.1235", "|  0.1235")
    text = latex.read_text()
    assert r"\toprule" in text
    assert r"a\_b $-$ c & 0.1235 & 1,234 \\" in text
    assert r"95\% low" in text


def test_a_missing_number_is_an_empty_cell() -> None:
    assert rounded(pd.DataFrame({"x": [0.5, None]}))["x"].tolist() == ["0.5000", ""]


def test_report_gives_verdicts_and_what_was_left_out(planted: Planted) -> None:
    runs = planted(subtraction_is_worse)
    runs.excluded.loc[0] = ["abc", "division none 16 seed 3", "failed", "RuntimeError: planted"]
    differences = paired_differences(runs)
    text = report(runs, summary_table(runs), over_seeds(differences), with_size(differences))
    assert "Is the truth found?" in text
    assert "- images seen" in text
    assert "size 16: subtraction, none against division, none, val/loss_ema +0.03" in text
    assert "3 seeds): higher." in text
    assert "it rises." in text
    assert "- division none 16 seed 3 (abc): failed, RuntimeError: planted" in text


def test_report_of_one_seed_says_that_there_is_no_interval(planted: Planted) -> None:
    runs = planted(subtraction_is_worse, seeds=1)
    differences = paired_differences(runs)
    text = report(runs, summary_table(runs), over_seeds(differences), with_size(differences))
    assert "one seed, so no interval." in text
    assert "): lower" not in text
    assert "nan" not in text


def test_every_seed_is_in_the_scaling_figure(planted: Planted) -> None:
    runs = planted(subtraction_is_worse)
    figure, numbers = plots.scaling_figure(runs)
    drawn = [tuple(p) for line in figure.axes[0].lines if line.get_linestyle() == "None" for p in line.get_xydata()]
    assert sorted(drawn) == sorted(zip(runs.cells["parameters"], runs.cells["val/loss_ema"], strict=True))
    assert len(numbers) == len(runs.cells)
    plt.close(figure)


def test_curves_and_differences_have_their_panels(planted: Planted) -> None:
    runs = planted(subtraction_is_worse)
    curves, _ = plots.curves_figure(runs)
    assert [axes.get_title() for axes in curves.axes] == ["size 16", "size 32"]
    differences, numbers = plots.differences_figure(runs, paired_differences(runs))
    assert [axes.get_title() for axes in differences.axes] == ["normalization", "convolution"] * 2
    assert set(numbers["metric"]) == {"train/loss", "val/loss_ema"}
    plt.close("all")


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert plots.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_no_store_is_said_with_the_command_that_makes_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "python -m lina_lab.run study=planted" in complaint(capsys, "study=planted")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_study_is_said_with_those_that_exist(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    quiet_logs()
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.create_experiment("other")
    assert "has no study planted; it has other" in complaint(capsys, "study=planted", f"runs={tmp_path}")
    assert "was not written by a study" in complaint(capsys, "study=other", f"runs={tmp_path}")


def test_a_damaged_store_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 500)
    assert "the run store cannot be read" in complaint(capsys, "study=planted", f"runs={tmp_path}")


@pytest.mark.parametrize(("arguments", "part"), [([], "study"), (["study=a", "run=b"], "run is not a field")])
def test_wrong_arguments_are_said(capsys: pytest.CaptureFixture[str], arguments: list[str], part: str) -> None:
    assert part in complaint(capsys, *arguments)
