"""Reports of studies whose cells start from others: what is compared, and what it cost with all its sources."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from lina_lab.analysis.load.cells import KEYS
from lina_lab.analysis.load.lineage import BEFORE, LINEAGE, STATE
from lina_lab.analysis.load.runs import StudyRuns
from lina_lab.analysis.report.sections import study_sections
from lina_lab.analysis.report.study_report import analyze_study, study_tables
from lina_lab.analysis.report.tables import ALL_FLOPS, OWN_FLOPS, markdown
from lina_lab.analysis.stats.budgets import iso_flop
from lina_lab.analysis.stats.paired import comparisons, paired_differences
from mlflow.entities import Run

from benchmarks.report import WIDTHS, ReportBenchConfig, make_store
from lina_lab.config import StagesConfig
from lina_lab.config.lineage import lineage_sentences
from lina_lab.records.runstore import AXES, CELL, ERROR, PHASE, STATUS, STUDY
from tests.analysis.conftest import BATCH, STEPS
from tests.analysis.simulated import simulated
from tests.analysis.test_cells import Store

Planted = Callable[..., StudyRuns]
CELLS = 2 * len(WIDTHS)


def normalization(run: Run) -> str:
    return str(json.loads(run.data.tags[AXES])["model.attention.normalization"])


@pytest.fixture
def staged(tmp_path: Path) -> Store:
    """A store in which each cell with subtraction starts from the one with division, which is not compared."""
    make_store(ReportBenchConfig(cells=2 * CELLS, checkpoints=3, max_images=960), tmp_path)
    store = Store(tmp_path)
    (study,) = store.runs("study")
    stages = {"axis": "normalization", "starts": {"subtraction": "division"}, "not_compared": ["division"]}
    store.client.set_tag(study.info.run_id, STUDY, json.dumps(json.loads(study.data.tags[STUDY]) | {"stages": stages}))
    sources = {}
    for run in store.runs():
        axes = json.loads(run.data.tags[AXES])
        key = (axes["model.attention.conv"], axes["model.dim"])
        if normalization(run) == "division":
            store.client.set_tag(run.info.run_id, PHASE, "source")
            sources[key] = run.data.tags[CELL]
    for run in store.runs():
        axes = json.loads(run.data.tags[AXES])
        if normalization(run) == "subtraction":
            source = sources[axes["model.attention.conv"], axes["model.dim"]]
            store.change_field(run, "start.cell", source)
    return store


def test_cells_that_others_start_from_are_not_compared_and_not_absent(staged: Store) -> None:
    runs = staged.read()
    assert len(runs.cells) == CELLS
    assert all("subtraction" in variant for variant in runs.variants)
    assert len(runs.sources) == CELLS
    assert all("division" in variant for variant in runs.sources["variant"])
    assert not set(runs.sources["cell"]) & {*runs.cells["cell"], *runs.history["cell"], *runs.checkpoints["cell"]}
    assert runs.absent == []


def test_the_cost_of_a_cell_with_its_sources_is_known(staged: Store) -> None:
    runs = staged.read()
    for row in runs.cells.to_dict("records"):
        # Division and subtraction cost nearly the same.
        assert row[LINEAGE] == pytest.approx(2 * row["flops"], rel=0.05)
        assert row[LINEAGE] > row["flops"]
        assert row[STATE] == "weights"


def test_a_cell_that_goes_on_costs_what_it_adds(staged: Store) -> None:
    for run in staged.runs():
        if normalization(run) == "subtraction":
            staged.change_field(run, "start.state", "training")
            staged.change_field(run, "trainer.max_images", 1280)
    cells = staged.read().cells
    assert list(cells["flops"]) == pytest.approx(list(320 * cells["flops_per_image"]))
    # Its images are counted from the source's start: division costs nearly what subtraction does.
    assert (abs(cells[BEFORE]) < 0.05 * cells["flops"]).all()
    assert set(cells[STATE]) == {"training"}


def test_the_teacher_of_a_cell_counts_along_its_curve_too(staged: Store) -> None:
    plain = staged.read()
    for run in staged.runs():
        if normalization(run) == "subtraction":
            staged.change_field(run, "start.distill_z", 1.0)
    taught = staged.read()
    more = taught.cells["flops_per_image"] / plain.cells["flops_per_image"]
    assert more.between(1.3, 1.4).all()
    assert list(taught.cells["flops"]) == pytest.approx(list(960 * taught.cells["flops_per_image"]))
    assert spent_by(taught) == pytest.approx(list(taught.cells[LINEAGE]))


def spent_by(runs: StudyRuns) -> list[float]:
    """FLOPs at the last checkpoint of each cell."""
    return list(runs.checkpoints.groupby("cell", observed=True)["flops"].max().reindex(runs.cells["cell"]))


def test_the_flops_of_checkpoints_begin_with_those_of_the_sources(staged: Store) -> None:
    runs = staged.read()
    assert spent_by(runs) == pytest.approx(list(runs.cells[LINEAGE]))
    assert list(runs.cells[BEFORE]) == pytest.approx(list(runs.cells[LINEAGE] - runs.cells["flops"]))
    # At the cheapest cell's FLOPs, no cell has seen images before its source had.
    view = iso_flop(runs)
    cheapest = runs.cells[LINEAGE].min()
    cells = runs.cells.set_index("cell")
    for row in view.points.to_dict("records"):
        own = cells.loc[row["cell"]]
        assert own[BEFORE] + own["flops_per_image"] * row["images"] <= cheapest * (1 + 1e-9)


def test_what_a_source_elsewhere_cost_is_not_known(staged: Store) -> None:
    for run in staged.runs():
        if normalization(run) == "division":
            staged.change_field(run, "start.source", "official/nova")
    assert staged.read().cells[LINEAGE].isna().all()


def test_a_study_of_which_the_sources_alone_are_trained_says_so(staged: Store) -> None:
    for run in staged.runs():
        if normalization(run) == "subtraction":
            staged.client.delete_run(run.info.run_id)
    assert "has cells for others to start from only, and none to compare yet" in staged.complaint()


def test_a_source_is_shown_by_its_best_attempt(staged: Store) -> None:
    first, second, *_ = (run for run in staged.runs() if normalization(run) == "division")
    for run in (first, second):
        staged.client.set_tag(run.info.run_id, STATUS, "failed")
        staged.client.set_tag(run.info.run_id, ERROR, "RuntimeError: planted")
    again = staged.copy(first, **{STATUS: "done"})
    assert again
    states = staged.read().sources.set_index("cell")["state"]
    assert len(states) == CELLS
    assert (states[first.data.tags[CELL]], states[second.data.tags[CELL]]) == ("done", "failed")


def with_stages(runs: StudyRuns, flops: dict[str, float], state: str = "weights") -> StudyRuns:
    """Planted runs whose cells started from others; first word of a variant -> FLOPs with sources."""
    first = runs.cells["variant"].str.partition(",")[0]
    cells = runs.cells.assign(**{"flops": 1e9, LINEAGE: first.map(flops).astype(float), STATE: state})
    names = [("small", seed) for seed in range(3)] + [("medium", 0)]
    sources = pd.DataFrame(
        [{"cell": f"{n}{s}", "variant": n, "size": 16, "seed": s, "state": "done"} for n, s in names],
        columns=[*KEYS, "state"],
    )
    sources.loc[3, "state"] = "failed"
    return replace(runs, cells=cells, sources=sources)


def lines_of(runs: StudyRuns, title: str) -> str:
    report = analyze_study(runs)
    sections = study_sections(report, study_tables(report), {})
    return "\n".join(next(section for section in sections if section.title.startswith(title)).lines)


def test_variants_that_cost_the_same_in_all_are_called_equal_beside_the_answer(planted: Planted) -> None:
    runs = with_stages(planted(lambda *_: 0.0), {"division": 2e12, "subtraction": 2.001e12})
    answer = lines_of(runs, "Answer")
    for size in (16, 32):
        assert f"Training FLOPs with all that a cell started from are equal at {size} within 0.05%: 2e+12." in answer


def test_variants_that_do_not_are_named_with_their_flops(planted: Planted) -> None:
    runs = with_stages(planted(lambda *_: 0.0), {"division": 2e12, "subtraction": 3e12})
    answer = lines_of(runs, "Answer")
    assert "Training FLOPs with all that a cell started from differ at 16: " in answer
    assert "“division, no convolution” 2e+12" in answer
    assert "“subtraction, depthwise” 3e+12" in answer


def test_the_table_has_the_flops_without_and_with_sources(planted: Planted) -> None:
    table = study_tables(analyze_study(with_stages(planted(lambda *_: 0.0), {"division": 2e12, "subtraction": 3e12})))[
        "table"
    ]
    assert set(table[OWN_FLOPS]) == {1e9}
    assert set(table[ALL_FLOPS]) == {2e12, 3e12}
    assert "3e+12" in markdown(table)
    assert ALL_FLOPS not in study_tables(analyze_study(planted(lambda *_: 0.0)))["table"]


def test_the_cells_that_others_started_from_are_mentioned(planted: Planted) -> None:
    design = lines_of(with_stages(planted(lambda *_: 0.0), {"division": 2e12, "subtraction": 3e12}), "Design")
    assert "4 cells only trained weights for others to start from (3 “small”, 1 “medium”)" in design
    assert "1 of them did not end well, or not yet." in design


@pytest.mark.parametrize(
    ("state", "said"),
    [("weights", "counted from the start of its own training"), ("training", "include those of that")],
)
def test_it_is_said_where_curves_begin(planted: Planted, state: str, said: str) -> None:
    runs = with_stages(planted(lambda *_: 0.0), {"division": 2e12, "subtraction": 3e12}, state)
    assert said in lines_of(runs, "Losses")


def test_the_baseline_is_the_first_point_that_is_compared() -> None:
    ways = {"way": {"model.attention.gate": ["none", "key", "value", "kv"]}}
    stages = {"axis": "way", "starts": {"key": "none", "value": "none"}, "not_compared": ["none"]}
    runs = simulated(ways, seeds=2, stages=stages)
    runs = replace(runs, cells=runs.cells[runs.cells["variant"] != "no way"])
    assert [comparison.label for comparison in comparisons(runs)] == ["value vs. key", "kv vs. key"]


def test_variants_of_other_budgets_are_compared_at_their_ends(planted: Planted) -> None:
    """Not at the last images that both have seen, and by no training loss."""
    runs = planted(lambda *_: 0.0)
    study = replace(runs.study, stages=StagesConfig(axis="normalization", starts={"subtraction": "division"}))
    short = runs.history["variant"].str.startswith("subtraction") & (runs.history["images"] > STEPS * BATCH // 2)
    runs = replace(runs, study=study, history=runs.history[~short])
    table = paired_differences(runs)
    ways = table[table["axis"] == "normalization"]
    # The planted losses are 2 at the end, and 9 - 2 half-way.
    assert list(ways.loc[ways["metric"] == "val/loss_ema", "difference"]) == pytest.approx([5.0] * 12)
    assert set(ways["metric"]) == {"val/loss_raw", "val/loss_ema"}
    others = table[table["axis"] == "convolution"]
    assert list(others.loc[others["metric"] == "val/loss_ema", "difference"]) == pytest.approx([0.0] * 12)
    assert "train/loss" in set(others["metric"])


def test_budgets_of_one_study_without_stages_are_compared_as_before(planted: Planted) -> None:
    runs = planted(lambda *_: 0.0)
    stages = StagesConfig(axis="normalization", starts={"subtraction": "division"})
    with_stages = paired_differences(replace(runs, study=replace(runs.study, stages=stages)))
    pd.testing.assert_frame_equal(with_stages, paired_differences(runs))


def test_a_report_of_a_study_without_stages_says_nothing_of_them(planted: Planted) -> None:
    report = analyze_study(planted(lambda *_: 0.0))
    text = "\n".join(line for section in study_sections(report, study_tables(report), {}) for line in section.lines)
    assert "start" not in text


def test_unknown_costs_are_said_and_the_others_compared() -> None:
    found = lineage_sentences({"48": {"a": [1e12, 1e12], "b": [1.02e12], "c": [math.nan]}})
    what = "Training FLOPs with all that a cell started from"
    assert found == [
        f"{what} are not known at 48 for “c”: the source is not a cell of this study.",
        f"{what} differ at 48: “a” 1e+12, “b” 1.02e+12.",
    ]
    assert lineage_sentences({"48": {"a": [1e12]}}) == []
