"""What MLflow shows of a study: names of cells, the answer so far, the data."""

import random
from collections.abc import Mapping
from typing import Any

import pytest
from lina_lab.analysis.load.runs import read_study
from lina_lab.analysis.stats.verdicts import primary_verdict
from mlflow import MlflowClient
from mlflow.entities import Run

from lina_lab.config import StudyConfig, from_dict
from lina_lab.config.names import full_name
from lina_lab.records import runstore
from lina_lab.records.status import CellStatus
from lina_lab.study.answer import answer
from lina_lab.study.cells import CellState
from lina_lab.study.grid import Plan, make_plan
from lina_lab.study.note import standing
from lina_lab.study.summary import summarise
from tests.conftest import STUDY
from tests.study.conftest import RESULT, Lab

NORM, DIM = "model.attention.normalization", "model.dim"
PRIMARY = {"axis": "normalization", "treatment": "subtraction", "baseline": "division"}


def noisy(axes: Mapping[str, Any], seed: int) -> float:
    """A loss with a planted difference of 0.1."""
    return 1.0 + 0.1 * (axes[NORM] == "subtraction") + 0.01 * random.Random(f"{axes}{seed}").random()


def ended(plan: Plan, seeds: int) -> dict[str, CellState]:
    return {
        cell.config_hash: CellState(
            config_hash=cell.config_hash,
            status=CellStatus.DONE,
            trial_id=index,
            values=[noisy(cell.axes, cell.config.seed)],
        )
        for index, cell in enumerate(plan.cells)
        if cell.config.seed < seeds
    }


def test_the_answer_is_that_of_the_seeds_that_have_ended(tiny_study: Any) -> None:
    plan = make_plan(*tiny_study(primary=PRIMARY, seeds=[0, 1, 2, 3]))
    none, one, some = (answer(plan, ended(plan, seeds)) for seeds in (0, 1, 3))
    assert none is not None
    assert one is not None
    assert some is not None
    assert none.numbers == {"primary/seeds": 0}
    subject = "val/loss_ema, normalization=subtraction minus normalization=division, size=16"
    assert str(none) == f"{subject}: no seed has all the cells of the comparison yet."
    assert one.numbers.keys() == {"primary/difference", "primary/seeds"}
    assert str(one).endswith("(1 seed, no interval).")
    assert 0.09 < some.numbers["primary/low"] < some.numbers["primary/difference"] < some.numbers["primary/high"] < 0.11
    assert str(some).startswith(f"{subject}: +0.")
    assert str(some).endswith("3 seeds): higher.")


def test_a_study_without_a_primary_comparison_says_so_and_gives_no_answer(tiny_study: Any) -> None:
    plan = make_plan(*tiny_study())
    assert answer(plan, {}) is None
    note = standing(plan, {}, summarise(plan, {}, [])).note("7")
    assert note.startswith("**Does it run?**\n\nNo primary comparison is declared")
    assert "](#/experiments/7/runs?viewStateShareKey=cells" in note
    assert "    lina plots study=tiny " in note
    assert "| division" in note


def test_a_command_for_a_part_of_the_grid_has_no_answer_for_the_whole(tiny_study: Any) -> None:
    study, base = tiny_study(primary=PRIMARY)
    assert answer(make_plan(study, {**base, "model": {**base["model"], "dim": 8}}, [DIM]), {}) is None


def study_run(lab: Lab) -> Run:
    client = MlflowClient(f"sqlite:///{lab.runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    (found,) = client.search_runs([experiment.experiment_id], f"tags.`{runstore.KIND}` = 'study'")
    return found


def test_mlflow_shows_the_answer_that_the_report_gives(lab: Lab, tiny_study: Any) -> None:
    lab.plan = make_plan(*tiny_study(primary=PRIMARY, seeds=[0, 1, 2]))
    axes = {cell.config_hash: cell.axes for cell in lab.plan.cells}

    def behaviour(config: Any) -> Any:
        loss = noisy(axes[config.config_hash()], config.seed)
        return type(RESULT)(**{**vars(RESULT), "metrics": {**RESULT.metrics, "val/loss_ema": loss}})

    lab.behaviour = behaviour
    lab.run()
    run, verdict = study_run(lab), primary_verdict(read_study("tiny", lab.runs))
    assert verdict is not None
    found, told = verdict.interval, run.data.metrics
    names = ("difference", "low", "high", "seeds")
    assert [told[f"primary/{name}"] for name in names] == pytest.approx(
        [found.value, found.low, found.high, found.seeds]
    )
    assert told["cells/done"] == 12
    note = run.data.tags[runstore.NOTE]
    assert "3 seeds): higher." in note
    assert "Cells: 12 done." in note


def test_a_cell_s_run_says_its_fields_and_its_data_and_is_found_by_its_tag(lab: Lab) -> None:
    lab.run()
    runs = {run.data.tags[runstore.CELL]: run for run in lab.cell_runs()}
    first = lab.plan.cells[0]
    run = runs[first.config_hash]
    assert run.info.run_name == "normalization=division dim=8 seed=0"
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", "built-in")
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "training")]
    # A run of an earlier version, or one that somebody renamed, is gone on with.
    client = MlflowClient(f"sqlite:///{lab.runs / 'mlflow.db'}")
    client.update_run(run.info.run_id, name="division 8 seed 0")
    client.delete_run(runs[lab.plan.cells[1].config_hash].info.run_id)
    lab.run()
    names = sorted(run.info.run_name for run in lab.cell_runs())
    assert len(names) == 4
    assert names[0] == "division 8 seed 0"


def test_fields_that_share_a_last_part_are_said_in_full_and_labels_stand_for_their_axis() -> None:
    axes = {"size": {"model.dim": [8, 16], "other.dim": [1, 2]}}
    study = from_dict(StudyConfig, STUDY | {"name": "tiny", "axes": axes})
    values = {"model.dim": 16, "other.dim": 2}
    assert full_name(study, values, {"seed": 1}) == "model.dim=16 other.dim=2 seed=1"
    labelled = from_dict(StudyConfig, STUDY | {"name": "tiny", "axes": axes, "labels": {"size": ["small", "large"]}})
    assert full_name(labelled, values, {"optimizer.lr": 0.1, "seed": 1}) == "size=large lr=0.1 seed=1"


def test_a_long_note_leaves_out_the_table(tiny_study: Any) -> None:
    study, base = tiny_study(axes={"normalization": {NORM: ["division"]}, "size": {DIM: list(range(8, 8 * 120, 8))}})
    plan = make_plan(study, base)
    note = standing(plan, {}, summarise(plan, {}, [])).note("7")
    assert len(note) < runstore.NOTE_LENGTH
    assert "| division" not in note
    assert "lina status study=tiny" in note
