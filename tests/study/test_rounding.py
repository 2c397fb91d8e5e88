"""A study measures how far its variants amplify rounding: cells are trained again with their sums in another order."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from lina_lab.config import ResourcesConfig, TrialConfig
from lina_lab.launch.local import in_this_process
from lina_lab.records.result import TrialResult
from lina_lab.records.runstore import FORMAT, KIND, PHASE
from lina_lab.records.status import CellStatus, Phase
from lina_lab.study.cells import CellState
from lina_lab.study.display import display
from lina_lab.study.grid import Begun, make_plan
from lina_lab.study.plan import cell_table
from lina_lab.study.rounds import grown
from lina_lab.study.worker import run_study
from tests.study.conftest import RESULT, Lab, store_at, workspace_at


def test_each_cell_is_trained_again_with_its_seed_and_a_hash_of_its_own(tiny_study: Any) -> None:
    plain = make_plan(*tiny_study(seeds=[0, 1]))
    plan = make_plan(*tiny_study(seeds=[0, 1], rounding={"threads": 2, "seeds": [1]}))
    assert plan.cells[:8] == plain.cells
    again = plan.cells[8:]
    assert {cell.phase for cell in again} == {Phase.ROUNDING}
    assert [cell.config for cell in again] == [cell.config for cell in plain.cells if cell.config.seed == 1]
    assert len({cell.config_hash for cell in plan.cells}) == 12
    begun = plan.as_begun(Begun(places={"data.workers": 4}))
    assert len({cell.config_hash for cell in (*begun.cells, *plan.cells)}) == 24
    assert begun.as_begun(Begun()).cells == plan.cells


def test_cells_that_follow_from_results_are_trained_again_too(tiny_study: Any) -> None:
    primary = {"axis": "normalization", "treatment": "subtraction", "baseline": "division", "size": "8"}
    until = {"primary": "resolved", "max_seeds": 4}
    plan = grown(make_plan(*tiny_study(rounding={"threads": 2}, primary=primary, until=until)), {})
    assert [cell.phase for cell in plan.cells] == [Phase.COMPARISON] * 4 + [Phase.ROUNDING] * 4
    done = {
        cell.config_hash: CellState(config_hash=cell.config_hash, status=CellStatus.DONE, trial_id=0, values=[0.5])
        for cell in plan.cells
    }
    more = grown(plan, done)
    assert [cell.phase for cell in more.cells] == [Phase.COMPARISON] * 8 + [Phase.ROUNDING] * 8
    assert {cell.config.seed for cell in more.cells if cell.again} == {0, 1, 2}


def test_the_second_training_has_other_resources_and_the_first_those_of_the_study(lab: Lab, tiny_study: Any) -> None:
    lab.plan = make_plan(*tiny_study(rounding={"threads": 2, "accumulate_grad_batches": 4}))
    seen: list[Any] = []

    def launch(config: TrialConfig, folder: Path, *, resources: Any = None, **_: Any) -> TrialResult:
        seen.append(resources)
        return RESULT

    run_study(store_at(lab.runs, lab.plan), lambda: nullcontext(launch), display())
    assert seen == [None] * 4 + [ResourcesConfig(threads=2, accumulate_grad_batches=4)] * 4
    assert lab.states() == [CellStatus.DONE] * 8
    assert sorted(run.data.tags[PHASE] for run in lab.cell_runs()) == ["comparison"] * 4 + ["rounding"] * 4
    client = MlflowClient(f"sqlite:///{lab.runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    study = client.search_runs([experiment.experiment_id], f"tags.`{KIND}` = 'study'")[0]
    assert study.data.tags[FORMAT] == "3"
    phases = [row["phase"] for row in cell_table(workspace_at(lab.runs, lab.plan))]
    assert phases == ["comparison"] * 4 + ["rounding"] * 4


def test_a_finished_study_may_measure_rounding_later(lab: Lab, tiny_study: Any) -> None:
    lab.run()
    lab.plan = make_plan(*tiny_study(rounding={"threads": 2}))
    store = store_at(lab.runs, lab.plan)
    store.enqueue()
    states = [store.states()[cell.config_hash].status for cell in lab.plan.cells]
    assert states == [CellStatus.DONE] * 4 + [CellStatus.WAITING] * 4


def test_a_cell_of_its_own_resources_reaches_the_trial(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def trial(config: TrialConfig, folder: Path, *, resources: ResourcesConfig, **_: Any) -> TrialResult:
        seen.append(resources.threads)
        return RESULT

    monkeypatch.setattr("lina_lab.training.trial.run_trial", trial)
    options: dict[str, Any] = {"tracking": None, "report": lambda progress: None}
    with in_this_process(ResourcesConfig()) as launch:
        launch(tiny(), tmp_path, **options)
        launch(tiny(), tmp_path, resources=ResourcesConfig(threads=2), **options)
    assert seen == [1, 2]


@pytest.mark.parametrize(
    ("rounding", "sentence"),
    [
        ({}, "without another order of sums nothing is rounded otherwise"),
        ({"threads": 1}, r"rounding.threads=1 is that of study.resources too"),
        ({"threads": 2, "seeds": [7]}, r"rounding.seeds: \[7\] are not seeds of the study"),
        ({"accumulate_grad_batches": 3}, "data.batch_size=16 cannot be divided evenly"),
    ],
)
def test_what_measures_no_rounding_is_refused(rounding: dict[str, Any], sentence: str, tiny_study: Any) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_plan(*tiny_study(rounding=rounding))
