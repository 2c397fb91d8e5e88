"""Optuna's own functions read a study: its axes are parameters, its objectives have names."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState
from sqlalchemy import text

from lina_lab.config import StudyConfig, from_dict
from lina_lab.records.result import Progress
from lina_lab.records.status import CellStatus
from lina_lab.study.backend import open_storage
from lina_lab.study.cells import CELL
from lina_lab.study.grid import make_plan
from lina_lab.study.parameters import PARAMETERS, distribution, parameters_of
from lina_lab.study.pruning import Watch
from lina_lab.study.store import Store
from lina_lab.study.stored import StoredStudy
from lina_lab.util.compat.optuna import database_of
from lina_lab.util.errors import ChangedError
from tests.conftest import STUDY
from tests.study.conftest import store_at

NORM, DIM, LR = "model.attention.normalization", "model.dim", "optimizer.lr"
NAMES = ["normalization", "size"]
LIMITED = "ignore:.*(PedAnova|regimes):UserWarning"


@pytest.fixture(params=["sqlite", "journal"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    return None if request.param == "sqlite" else f"journal:{tmp_path / 'optuna.journal'}"


def loaded(runs: Path, url: str | None) -> optuna.Study:
    """The study as a tool that knows Optuna alone opens it."""
    return optuna.load_study(study_name="tiny", storage=open_storage(url, runs))


def finish(store: Store, losses: Callable[[Mapping[str, Any]], list[float]]) -> None:
    store.enqueue()
    while (claim := store.claim()) is not None:
        store.end(claim, CellStatus.DONE, values=losses({**claim.cell.axes, "seed": claim.cell.config.seed}))


def by_size(axes: Mapping[str, Any]) -> list[float]:
    """A loss in which the size is nearly everything."""
    return [10 / axes[DIM] + 0.001 * (axes[NORM] == "division") + 0.0001 * axes["seed"]]


@pytest.mark.filterwarnings(LIMITED)
@pytest.mark.parametrize("decides", NAMES)
def test_the_axis_that_decides_the_loss_is_the_most_important_parameter(
    decides: str, tiny_study: Any, tmp_path: Path, url: str | None
) -> None:
    def by_normalization(axes: Mapping[str, Any]) -> list[float]:
        return [float(axes[NORM] == "division") + 0.0001 * axes["seed"]]

    store = store_at(tmp_path, make_plan(*tiny_study(seeds=list(range(6)))), url)
    finish(store, by_size if decides == "size" else by_normalization)
    study = loaded(tmp_path, url)
    for evaluator in (None, FanovaImportanceEvaluator(seed=0)):
        found = get_param_importances(study, evaluator=evaluator)
        assert sorted(found) == NAMES
        assert next(iter(found)) == decides
        assert found[decides] > 0.5
    assert set(study.trials[0].distributions.values()) == {
        CategoricalDistribution(["division", "subtraction"]),
        IntDistribution(8, 16),
    }


def test_the_table_of_trials_has_the_axes_beside_what_earlier_versions_read(
    tiny_study: Any, tmp_path: Path, url: str | None
) -> None:
    plan = make_plan(*tiny_study())
    finish(store_at(tmp_path, plan, url), by_size)
    study = loaded(tmp_path, url)
    table = study.trials_dataframe()
    assert study.metric_names == ["val/loss_ema"]
    assert {"value_val/loss_ema", "params_normalization", "params_size", "user_attrs_cell"} <= set(table.columns)
    rows = table.set_index("user_attrs_cell").loc[[cell.config_hash for cell in plan.cells]]
    assert list(rows["params_normalization"]) == [cell.axes[NORM] for cell in plan.cells]
    assert list(rows["params_size"]) == [cell.axes[DIM] for cell in plan.cells]
    assert list(rows[f"user_attrs_{DIM}"]) == [cell.axes[DIM] for cell in plan.cells]


@pytest.mark.filterwarnings(LIMITED)
def test_each_objective_of_several_has_a_name_and_importances_of_its_own(
    tiny_study: Any, tmp_path: Path, url: str | None
) -> None:
    objectives = [{"metric": "val/loss_ema"}, {"metric": "val/loss_raw"}]
    plan = make_plan(*tiny_study(objectives=objectives, seeds=list(range(6))))
    finish(store_at(tmp_path, plan, url), lambda axes: [*by_size(axes), float(axes[NORM] == "division")])
    study = loaded(tmp_path, url)
    assert study.metric_names == ["val/loss_ema", "val/loss_raw"]
    assert {"values_val/loss_ema", "values_val/loss_raw"} <= set(study.trials_dataframe().columns)
    for index, decides in enumerate(("size", "normalization")):
        found = get_param_importances(study, target=lambda trial, index=index: trial.values[index])  # type: ignore[misc]
        assert next(iter(found)) == decides


def test_a_trial_has_what_the_cell_measured_while_it_trained_by_images(
    tiny_study: Any, tmp_path: Path, url: str | None
) -> None:
    store = store_at(tmp_path, make_plan(*tiny_study()), url)
    store.enqueue()
    claim = store.claim()
    assert claim is not None
    watch = Watch(store, claim, print)
    for images, loss in ((32, 0.9), (64, 0.7)):
        watch.follow(Progress(images=images, loss=1.0, validation={"val/loss_ema": loss}, validated_images=images))
    store.end(claim, CellStatus.DONE, values=[0.7])
    study = loaded(tmp_path, url)
    assert next(trial for trial in study.trials if trial.values).intermediate_values == {32: 0.9, 64: 0.7}


def test_optuna_s_own_worker_gets_a_waiting_cell_with_its_values(
    tiny_study: Any, tmp_path: Path, url: str | None
) -> None:
    plan = make_plan(*tiny_study())
    store_at(tmp_path, plan, url).enqueue()
    trial = loaded(tmp_path, url).ask()
    cell = next(cell for cell in plan.cells if cell.config_hash == trial.user_attrs[CELL])
    assert trial.suggest_categorical("normalization", ["division", "subtraction"]) == cell.axes[NORM]
    assert trial.suggest_int("size", 8, 16) == cell.axes[DIM]


@pytest.mark.filterwarnings(LIMITED)
def test_an_axis_that_grows_is_one_parameter_with_all_its_values(
    tiny_study: Any, tmp_path: Path, url: str | None
) -> None:
    seeds = list(range(6))
    finish(store_at(tmp_path, make_plan(*tiny_study(seeds=seeds)), url), by_size)
    theirs = {"params": {"size": 8}, "distributions": {"size": IntDistribution(8, 16)}}
    loaded(tmp_path, url).add_trial(optuna.trial.create_trial(state=TrialState.FAIL, **theirs))  # type: ignore[arg-type]
    axes = {"normalization": {NORM: ["subtraction", "division"]}, "size": {DIM: [8, 16, 64]}}
    finish(store_at(tmp_path, make_plan(*tiny_study(seeds=seeds, axes=axes)), url), by_size)
    study = loaded(tmp_path, url)
    assert next(iter(get_param_importances(study))) == "size"
    # What another tool added stays.
    (other,) = (trial for trial in study.trials if CELL not in trial.user_attrs)
    assert other.params == theirs["params"]
    ours = [trial for trial in study.trials if CELL in trial.user_attrs]
    # A journal keeps what it has.
    every = {trial.distributions["size"] for trial in ours}
    whole = {IntDistribution(8, 64, log=True)}
    assert every == whole | (set() if url is None else {IntDistribution(8, 16)})
    assert {trial.params["size"] for trial in ours} == {8, 16, 64}
    normalization = {trial.distributions["normalization"] for trial in ours}
    assert normalization == {CategoricalDistribution(["division", "subtraction"])}
    assert all(trial.params["normalization"] == trial.user_attrs[NORM] for trial in ours)


def as_earlier_versions_left_it(runs: Path) -> None:
    """Take out of the database what they did not write."""
    study = loaded(runs, None)
    database = database_of(study)
    assert database is not None
    with database.engine.begin() as connection:
        connection.execute(text("DELETE FROM trial_params"))
        connection.execute(text("DELETE FROM study_system_attributes"))
        connection.execute(text("DELETE FROM study_user_attributes WHERE key = :name"), {"name": PARAMETERS})


@pytest.mark.filterwarnings(LIMITED)
def test_a_study_that_was_begun_without_parameters_gets_them_when_it_goes_on(tiny_study: Any, tmp_path: Path) -> None:
    store = store_at(tmp_path, make_plan(*tiny_study(seeds=[0, 1])))
    store.enqueue()
    claim = store.claim()
    assert claim is not None
    store.end(claim, CellStatus.DONE, values=by_size({**claim.cell.axes, "seed": 0}))
    as_earlier_versions_left_it(tmp_path)
    # A worker that joins takes what waits.
    joins = store_at(tmp_path, store.plan)
    joins.join()
    claim = joins.claim()
    assert claim is not None
    joins.end(claim, CellStatus.DONE, values=by_size({**claim.cell.axes, "seed": 0}))
    assert not any(trial.params for trial in loaded(tmp_path, None).trials)
    finish(store_at(tmp_path, make_plan(*tiny_study(seeds=[0, 1, 2]))), by_size)
    study = loaded(tmp_path, None)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 12
    assert sorted(get_param_importances(study)) == NAMES
    assert all(trial.params["size"] == trial.user_attrs[DIM] for trial in study.trials)


def test_another_attempt_at_a_cell_has_the_same_parameters(tiny_study: Any, tmp_path: Path, url: str | None) -> None:
    store = store_at(tmp_path, make_plan(*tiny_study()), url)
    store.enqueue()
    for status in (CellStatus.FAILED, CellStatus.INTERRUPTED):
        claim = store.claim()
        assert claim is not None
        store.end(claim, status, error="why")
    while store.claim() is not None:
        pass
    stored = StoredStudy("tiny", tmp_path, url)
    assert len(stored.retry(stored.cells())) == 1
    study = loaded(tmp_path, url)
    assert len(study.trials) == 6
    assert len({trial.user_attrs[CELL] for trial in study.trials}) == 4
    assert all(trial.params["size"] == trial.user_attrs[DIM] for trial in study.trials)


def test_other_objectives_that_are_refused_rename_nothing(tiny_study: Any, tmp_path: Path) -> None:
    finish(store_at(tmp_path, make_plan(*tiny_study())), by_size)
    other = make_plan(*tiny_study(objectives=[{"metric": "val/loss_raw"}]))
    with pytest.raises(ChangedError, match="another configuration"):
        store_at(tmp_path, other)
    assert loaded(tmp_path, None).metric_names == ["val/loss_ema"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([8, 16], IntDistribution(8, 16)),
        ([8, 16, 32], IntDistribution(8, 32, log=True)),
        ([0, 0.5], FloatDistribution(0, 0.5)),
        ([1e-3, 4e-3], FloatDistribution(1e-3, 4e-3, log=True)),
        ([True, False], CategoricalDistribution([True, False])),
        ([None, 4], CategoricalDistribution([None, 4])),
        (["none", "kv"], CategoricalDistribution(["none", "kv"])),
    ],
)
def test_numbers_have_a_range_and_other_values_are_choices(values: list[Any], expected: Any) -> None:
    assert distribution(values) == expected


def test_an_axis_of_several_fields_is_one_parameter() -> None:
    def definition(**changes: Any) -> StudyConfig:
        return from_dict(StudyConfig, STUDY | {"name": "tiny"} | changes)

    size = {DIM: [8, 16], "model.num_heads": [1, 2]}
    tuned = {"axes": {"size": size}, "size_axis": "size", "tune": {LR: [0.001, 0.002, 0.004]}}
    attributes = {CELL: "abc", "seed": 0, DIM: 16, "model.num_heads": 2, LR: 0.002, "status": "done"}
    assert parameters_of(definition(**tuned), attributes) == {"size": 16, LR: 0.002}
    alike = {"axes": {"size": {DIM: [16, 16], "model.num_heads": [1, 2]}}}
    assert parameters_of(definition(**alike), attributes) == {"size": "16, 2"}
    named = {"axes": {"size": size}, "labels": {"size": ["small", "large"]}}
    assert parameters_of(definition(**named), attributes) == {"size": "large"}
    listed = {"axes": {"size": {"model.attention": [{"gate": "kv"}, {"gate": "none"}]}}}
    assert parameters_of(definition(**listed), {CELL: "abc", "model.attention": {"gate": "kv"}}) == {
        "size": '{"gate": "kv"}'
    }
    # An attempt of before the axis was added.
    assert parameters_of(definition(), {CELL: "abc", "seed": 0, DIM: 8}) == {"size": 8}
