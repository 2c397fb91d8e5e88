"""Reports of studies with several tasks: each task by itself, and the comparison of both by ratios."""

from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lina_lab.analysis.load.errors import StoreError
from lina_lab.analysis.load.kinds import by_kind, of_generation
from lina_lab.analysis.load.runs import StudyRuns
from lina_lab.analysis.report.answer import answer_sentences
from lina_lab.analysis.report.page import _caption
from lina_lab.analysis.report.paper_claims import _ours
from lina_lab.analysis.report.study_report import analyze_study, study_figures, study_tables
from lina_lab.analysis.report.writer import write_study_report
from lina_lab.analysis.stats.exploratory import Kind, exploratory
from lina_lab.analysis.stats.paired import comparisons
from lina_lab.analysis.stats.verdicts import primary_verdict

from tests.analysis.simulated import simulated

AXES: dict[str, Any] = {
    "task": {"model.task": ["generation", "classification"]},
    "normalization": {"model.attention.normalization": ["division", "subtraction"]},
    "convolution": {"model.attention.conv": ["none", "depthwise"]},
}
PRIMARY: dict[str, Any] = {
    "axis": "normalization",
    "treatment": "subtraction",
    "baseline": "division",
    "quantity": "interaction",
    "across": {"axis": "task", "treatment": "classification", "baseline": "generation"},
    "scale": "log",
    "at": {"convolution": "none"},
}
METRIC = "val/loss_ema"


@pytest.fixture(scope="module")
def tasks() -> StudyRuns:
    """Classification has ten times the loss; there subtraction has another 1.3 times."""
    runs = simulated(AXES, sizes=(16, 32), seeds=5, effect=0.0, noise=0.005, primary=PRIMARY)

    def factor(table: Any) -> Any:
        classifies = table["variant"].astype(str).str.startswith("classification")
        subtracts = table["variant"].astype(str).str.contains("subtraction")
        return np.where(classifies, 10.0, 1.0) * np.where(classifies & subtracts, 1.3, 1.0)

    scaled = factor(runs.cells)
    losses = [name for name in ("train/loss", "val/loss_raw", METRIC) if name in runs.cells]
    cells = runs.cells.assign(**{name: runs.cells[name] * scaled for name in losses})
    history = runs.history.assign(value=runs.history["value"] * factor(runs.history))
    return replace(runs, cells=cells, history=history)


def test_the_verdict_is_the_ratio_of_ratios_with_both_ratios_beside_it(tasks: StudyRuns) -> None:
    verdict = primary_verdict(tasks)
    assert verdict is not None
    assert verdict.label == "subtraction vs. division (no convolution): classification vs. generation"
    assert verdict.outcome == "higher"
    assert verdict.interval.value == pytest.approx(log(1.3), abs=0.02)
    assert [side.name for side in verdict.sides] == ["classification", "generation"]
    assert verdict.sides[0].interval.value == pytest.approx(log(1.3), abs=0.02)
    assert verdict.sides[1].interval.value == pytest.approx(0, abs=0.02)
    assert verdict.sides[0].interval.value - verdict.sides[1].interval.value == pytest.approx(verdict.interval.value)
    assert len(verdict.diverged) == 4


def test_the_answer_says_ratios(tasks: StudyRuns) -> None:
    verdict = primary_verdict(tasks)
    lines = answer_sentences(tasks, verdict, exploratory(tasks))
    assert lines[1].startswith(
        "Answer: higher, the ratio of validation loss (EMA), subtraction over division, with classification over the "
        "same with generation is 1.3"
    )
    assert lines[2].startswith("The ratio itself, subtraction over division: 1.3")


def test_no_comparison_sets_losses_of_two_tasks_against_each_other(tasks: StudyRuns) -> None:
    table = exploratory(tasks)
    plain = table[table["kind"] != Kind.INTERACTION]
    for role in ("treatment", "baseline"):
        assert plain[role].str.contains("generation|classification").all()
    assert (plain["treatment"].str.split(",").str[0] == plain["baseline"].str.split(",").str[0]).all()
    crossed = table[(table["kind"] == Kind.INTERACTION) & (table["metric"] == METRIC)]
    # At the largest size, that without convolution is the primary comparison.
    assert len(crossed) == 2 * 2 * 2 - 1
    assert crossed["comparison"].str.endswith(": classification vs. generation").all()
    found = crossed.set_index(["comparison", "size"])["difference"]
    name = "subtraction vs. division (depthwise): classification vs. generation"
    assert found[name, 32] == pytest.approx(log(1.3), abs=0.02)


def test_each_figure_is_of_one_task(tasks: StudyRuns) -> None:
    report = analyze_study(tasks)
    assert report.fits is None
    drawn = study_figures(report)
    names = set(drawn) - {"primary"}
    assert {name.rpartition("-")[2] for name in names} == {"generation", "classification"}
    for name in names:
        numbers, task = drawn[name][1], name.rpartition("-")[2]
        column = "variant" if "variant" in numbers else "treatment"
        assert numbers[column].astype(str).str.startswith(task).all(), name
    labels = [label.get_text() for label in drawn["primary"][0].axes[0].get_yticklabels()]
    assert all("classification vs. generation" in label or "size" in label for label in labels)


@pytest.mark.parametrize("task", ["generation", "classification"])
def test_a_primary_comparison_within_a_task_is_in_the_figure_of_that_task(task: str) -> None:
    primary = {"axis": "normalization", "treatment": "subtraction", "baseline": "division"}
    runs = simulated(AXES, sizes=(16, 32), seeds=5, primary={**primary, "at": {"task": task, "convolution": "none"}})
    drawn = study_figures(analyze_study(runs))
    tops = {name: drawn[name][0].axes[0].get_yticklabels()[0].get_text() for name in drawn if "primary" in name}
    assert set(tops) == {"primary-generation", "primary-classification"}
    assert {name for name, label in tops.items() if label.startswith("PRIMARY: subtraction vs. division")} == {
        f"primary-{task}"
    }


def test_the_page_shows_both_tasks(tasks: StudyRuns, tmp_path: Path) -> None:
    report = analyze_study(tasks)
    write_study_report(report, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "curves-generation.png" in text
    assert "curves-classification.png" in text
    assert "Not fitted over several tasks" in text
    assert (study_tables(report)["primary_table"]["kind"] == "log interaction").any()


def test_a_claim_of_the_paper_on_generation_is_judged_by_generation_alone(tasks: StudyRuns) -> None:
    """And a ratio is called one."""
    ours = _ours(["planted"], lambda name: tasks)
    primary, others = ours["text"].iloc[0], ours["text"].iloc[1:]
    assert primary.startswith("our study planted, primary, subtraction vs. division (no convolution): classification")
    assert ": ratio 1.3" in primary
    assert len(others) > 0
    assert not others.str.contains("classification").any()
    assert set(of_generation(tasks).variants) == {name for name in tasks.variants if name.startswith("generation")}


def test_a_study_that_generates_nothing_is_no_study_of_the_paper_s(tasks: StudyRuns) -> None:
    only = by_kind(tasks)["classification"]
    assert _ours(["planted"], lambda name: only).empty
    with pytest.raises(StoreError, match="has cells of classification only, and none of generation"):
        of_generation(only)


def test_a_picture_s_caption_names_its_task() -> None:
    assert _caption(Path("curves-diffusion.png")).startswith("Diffusion. Top: training curves")
    assert _caption(Path("samples-2.png")) == _caption(Path("samples.png"))


def test_every_number_that_is_a_logarithm_is_called_one(tasks: StudyRuns) -> None:
    study = replace(tasks.study, primary=replace(tasks.study.primary, margin=0.5))
    runs = replace(tasks, study=study)
    lines = answer_sentences(runs, primary_verdict(runs), exploratory(runs))
    assert "The whole interval lies within the margin of ±0.50 in natural logarithms: too small to matter." in lines
    (power,) = (line for line in lines if line.startswith("Power:"))
    assert "in natural logarithms four times in five" in power


def test_tasks_are_kept_apart_on_an_axis_that_has_several_points_of_one() -> None:
    axis = {"recipe": {"model.task": ["generation", "generation", "classification"], "model.depth": [2, 4, 4]}}
    runs = simulated(axis, sizes=(16, 32), seeds=2)
    found = [(one.treatment, one.baseline) for one in comparisons(runs)]
    assert ("generation, depth 4", "generation, depth 2") in found
    assert {(treatment.split(",")[0], baseline.split(",")[0]) for treatment, baseline in found} == {
        ("generation", "generation"),
        ("classification", "classification"),
    }
