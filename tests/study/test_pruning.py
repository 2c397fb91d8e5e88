"""Cells that Optuna's pruner gives up while they train."""

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from lina_lab.config import PruningConfig, ResourcesConfig, StudyConfig, TrialConfig, from_dict
from lina_lab.launch.local import in_this_process
from lina_lab.records.files import PRUNE_FILE, RESULT_FILE
from lina_lab.records.result import Progress, Report, TrialResult
from lina_lab.records.runstore import STATUS
from lina_lab.records.status import CellStatus, Phase, TrialStatus
from lina_lab.study.cells import CELL
from lina_lab.study.grid import Plan, make_plan
from lina_lab.study.pruning import Course, courses_of, give_up, gives_up
from lina_lab.study.restore import restore
from lina_lab.study.status import look
from lina_lab.study.stored import StoredStudy
from lina_lab.study.summary import table
from lina_lab.util.compat.optuna import intermediate_values, trial_rows
from tests.conftest import STUDY
from tests.study.conftest import RESULT, Lab, store_at

NORMALIZATION, DIM = "model.attention.normalization", "model.dim"
MEDIAN = {"rule": "median", "options": {"n_startup_trials": 2}}
RULES: list[tuple[str, dict[str, Any]]] = [
    ("median", {"n_startup_trials": 5}),
    ("percentile", {"percentile": 50.0}),
    ("successive_halving", {"reduction_factor": 2}),
    ("hyperband", {"reduction_factor": 2, "max_resource": 16}),
]


@dataclass
class Trainer(Lab):
    """A lab whose trainer validates three times, at 16, 32 and 64 images, and ends where it is given up."""

    reached: dict[str, int] = field(default_factory=dict)

    def loss(self, config: TrialConfig, images: int) -> float:
        return 0.5 + (config.seed >= 2) + 1 / images

    def launcher(self) -> Any:
        def launch(config: TrialConfig, folder: Path, *, report: Report, **_: Any) -> TrialResult:
            self.trained.append(config.config_hash())
            for images in (16, 32, 64):
                if images <= self.reached.get(folder.name, 0):
                    continue  # its checkpoint holds them
                value = self.loss(config, images)
                self.reached[folder.name] = images
                measured = {"val/loss_ema": value, "val/loss_raw": 2 * value}
                report(Progress(images=images, loss=1.0, validated_images=images, validation=measured))
                report(Progress(images=images + 1, loss=1.0, validated_images=images, validation=measured))
                if (folder / PRUNE_FILE).exists():
                    early = replace(RESULT, images_seen=images, metrics=measured)
                    return replace(early, status=TrialStatus.PRUNED, error="pruned")
            return replace(RESULT, metrics={**RESULT.metrics, **measured})

        return nullcontext(launch)

    def reported(self) -> dict[str, dict[int, float]]:
        """Config hash -> what its latest attempt has reported to Optuna."""
        study = store_at(self.runs, self.plan).study
        found = intermediate_values(study)
        return {row.attributes[CELL]: found.get(row.trial_id, {}) for row in trial_rows(study)}


@pytest.fixture
def trainer(lab: Lab) -> Trainer:
    return Trainer(lab.plan, lab.runs)


def planned(tiny_study: Any, **changes: Any) -> Plan:
    return make_plan(*tiny_study(**{"seeds": [0, 1, 2], **changes}))


def course(status: str, **values: float) -> Course:
    return Course(status=CellStatus(status), values={int(name[1:]): value for name, value in values.items()})


@pytest.mark.parametrize(("rule", "options"), RULES)
@pytest.mark.parametrize(("direction", "sign"), [("minimize", 1), ("maximize", -1)])
def test_a_cell_that_begins_badly_is_given_up_and_one_that_begins_well_is_not(
    rule: str, options: dict[str, Any], direction: Any, sign: int
) -> None:
    pruning = PruningConfig(rule=rule, options=options)
    before = [course("done", i16=sign * (1 + i / 10), i64=sign * i / 10) for i in range(6)]
    for value, expected in ((0.5, False), (3.0, True)):
        courses = [*before, course("running", i16=sign * value)]
        assert gives_up(pruning, direction, courses, 6, 64) is expected


def test_halving_compares_at_each_rung_with_those_that_reached_it_also_with_pruned_ones() -> None:
    pruning = PruningConfig(rule="successive_halving", options={"reduction_factor": 2})
    before = [course("pruned", i16=2.0), course("pruned", i16=2.1), course("done", i16=1.0, i32=0.5, i64=0.1)]
    assert not gives_up(pruning, "minimize", [*before, course("running", i16=1.1)], 3, 64)
    assert gives_up(pruning, "minimize", [*before, course("running", i16=1.1, i32=0.9)], 3, 64)
    assert gives_up(pruning, "minimize", [*before, course("running", i16=2.2)], 3, 64)


def test_patience_and_thresholds_look_at_the_cell_alone() -> None:
    flat, falling = course("running", i16=1.0, i32=1.1, i48=1.2), course("running", i16=1.0, i32=0.9, i48=0.8)
    patient = PruningConfig(rule="patient", options={"patience": 1})
    assert gives_up(patient, "minimize", [flat], 0, 64)
    assert not gives_up(patient, "minimize", [falling], 0, 64)
    wrapped = PruningConfig(rule="patient", options={"patience": 1, "wrapped_pruner": {"rule": "median"}})
    assert not gives_up(wrapped, "minimize", [flat], 0, 64)  # no cell is done that it could be compared with
    threshold = PruningConfig(rule="threshold", options={"upper": 0.85})
    assert gives_up(threshold, "minimize", [flat], 0, 64)
    assert not gives_up(threshold, "minimize", [falling], 0, 64)


def test_only_cells_of_the_same_size_and_of_the_comparison_are_compared(tiny_study: Any) -> None:
    plan = planned(tiny_study)
    rows = [(cell.config_hash, CellStatus.DONE, {16: 0.5}) for cell in plan.cells]
    courses, own = courses_of(plan, rows, plan.cells[1], 16)
    assert len(courses) == 6
    assert courses[own].status is CellStatus.RUNNING
    tuning = replace(plan, cells=tuple(replace(cell, phase=Phase.TUNING) for cell in plan.cells[2:]))
    cells = (*plan.cells[:2], *tuning.cells)
    assert len(courses_of(replace(plan, cells=cells), rows, cells[1], 16)[0]) == 1


def test_attempts_at_a_cell_are_one_course_up_to_what_it_has_seen(tiny_study: Any) -> None:
    plan = planned(tiny_study)
    name = plan.cells[0].config_hash
    rows = [(name, CellStatus.INTERRUPTED, {16: 0.9, 32: 0.8}), (name, CellStatus.RUNNING, {})]
    courses, own = courses_of(plan, [*rows], plan.cells[0], 16)
    assert courses[own].values == {16: 0.9}


def test_bad_cells_are_pruned_and_recorded_everywhere(trainer: Trainer, tiny_study: Any) -> None:
    trainer.plan = planned(tiny_study, pruning=MEDIAN)
    summary = trainer.run()
    assert summary.counts == {"done": 8, "pruned": 4}
    assert summary.failures == {}
    assert trainer.states() == ["done"] * 8 + ["pruned"] * 4
    reason = "given up at 16 images by median: val/loss_ema 1.562"
    record = trainer.record(11)
    assert (record["status"], record["result"]["status"], record["result"]["error"]) == ("pruned", "pruned", reason)
    assert record["result"]["images_seen"] == 16
    runs = [run for run in trainer.cell_runs() if run.data.tags[STATUS] == "pruned"]
    assert [run.info.status for run in runs] == ["KILLED"] * 4
    assert {run.data.tags["lina.error"] for run in runs} == {reason}
    study = store_at(trainer.runs, trainer.plan).study
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    assert states == [optuna.trial.TrialState.COMPLETE] * 8 + [optuna.trial.TrialState.PRUNED] * 4
    assert all(trial.values is None for trial in study.get_trials(deepcopy=False)[8:])
    folder = trainer.runs / "tiny" / trainer.plan.cells[11].config_hash
    assert not (folder / PRUNE_FILE).exists()


def test_status_and_table_show_pruned_cells_and_average_none_of_them(trainer: Trainer, tiny_study: Any) -> None:
    trainer.plan = planned(tiny_study, pruning=MEDIAN)
    trainer.run()
    view = look(StoredStudy("tiny", trainer.runs, None), list)
    assert view.summary() == "tiny: 8 done, 4 pruned"
    assert view.open == 0
    assert "pruned: given up at 16 images by median" in str(view)
    pruned = [cell for cell in view.to_dict()["cells"] if cell["state"] == "pruned"]
    assert [cell["objectives"] for cell in pruned] == [None] * 4
    shown = table(trainer.plan, store_at(trainer.runs, trainer.plan).states())
    assert shown.count("2 done, 1 pruned") == 4
    assert shown.count("0.5156") == 4  # the mean of the two seeds that are done


def test_the_same_command_and_retry_leave_pruned_cells_alone(trainer: Trainer, tiny_study: Any) -> None:
    trainer.plan = planned(tiny_study, pruning=MEDIAN)
    trainer.run()
    trainer.trained.clear()
    stored = StoredStudy("tiny", trainer.runs, None)
    assert stored.retry(stored.cells()) == []
    assert trainer.run().counts == {"done": 8, "pruned": 4}
    trainer.plan = planned(tiny_study)  # without pruning
    assert trainer.run().counts == {"done": 8, "pruned": 4}
    assert trainer.trained == []


def test_a_lost_queue_is_filled_from_the_records_of_pruned_cells(trainer: Trainer, tiny_study: Any) -> None:
    trainer.plan = planned(tiny_study, pruning=MEDIAN)
    trainer.run()
    trainer.trained.clear()
    (trainer.runs / "optuna.db").unlink()
    for path in trainer.runs.glob("optuna.db-*"):
        path.unlink()
    assert trainer.run().counts == {"done": 8, "pruned": 4}
    assert trainer.trained == []


def test_a_lost_folder_of_a_pruned_cell_is_restored(trainer: Trainer, tiny_study: Any) -> None:
    trainer.plan = planned(tiny_study, pruning=MEDIAN)
    trainer.run()
    (trainer.runs / "tiny" / trainer.plan.cells[11].config_hash / RESULT_FILE).unlink()
    lines: list[str] = []
    restore(store_at(trainer.runs, trainer.plan), lines.append)
    assert "fetched from MLflow" in lines[0]
    assert trainer.record(11)["status"] == "pruned"


def test_a_decision_outlives_the_process_that_made_it(trainer: Trainer, tiny_study: Any) -> None:
    """It was killed after it had decided, and before it had recorded that: no pruner is asked again."""
    trainer.plan = planned(tiny_study)
    folder = trainer.runs / "tiny" / trainer.plan.cells[0].config_hash
    folder.mkdir(parents=True)
    give_up(folder, "given up at 16 images by median: val/loss_ema 3")
    assert trainer.run().counts == {"done": 11, "pruned": 1}
    assert trainer.record(0)["result"]["error"] == "given up at 16 images by median: val/loss_ema 3"


def test_an_interrupted_cell_is_judged_by_all_that_it_has_measured(trainer: Trainer, tiny_study: Any) -> None:
    """The median pruner looks at the best value so far, of which a new attempt's trial knows nothing."""
    options = {"n_startup_trials": 1, "n_warmup_steps": 32}
    study = {"axes": {"size": {DIM: [8]}}, "seeds": [0, 1]}
    trainer.plan = planned(tiny_study, pruning={"rule": "median", "options": options}, **study)
    first, second = trainer.plan.cells
    stops = [32]

    def loss(config: TrialConfig, images: int) -> float:
        if config == second.config and images in stops:
            stops.clear()
            raise KeyboardInterrupt
        return 0.5 if config == first.config else {16: 0.4, 32: 0.6, 64: 0.5}[images]

    trainer.loss = loss  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert trainer.reported()[second.config_hash] == {16: 0.4}
    assert trainer.run().counts == {"done": 2}
    assert trainer.reported()[second.config_hash] == {32: 0.6, 64: 0.5}


def test_all_cells_report_their_validations_to_optuna_also_without_pruning(trainer: Trainer, tiny_study: Any) -> None:
    trainer.plan = planned(tiny_study, seeds=[0])
    trainer.run()
    assert list(trainer.reported().values()) == [{16: 0.5625, 32: 0.53125, 64: 0.515625}] * 4


def test_training_does_not_wait_for_a_queue_that_is_locked(
    trainer: Trainer, tiny_study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    trainer.plan = planned(tiny_study, seeds=[0])
    original, refused = optuna.storages.RDBStorage.set_trial_intermediate_value, []

    def locked(self: Any, trial_id: int, step: int, value: float) -> None:
        if step == 16 and step not in refused:
            refused.append(step)
            raise OperationalError("INSERT", {}, Exception("database is locked"))
        original(self, trial_id, step, value)

    monkeypatch.setattr(optuna.storages.RDBStorage, "set_trial_intermediate_value", locked)
    assert trainer.run().counts == {"done": 4}
    assert refused == [16]
    assert "the queue takes no validation now, and gets it with the next one" in trainer.lines
    assert list(trainer.reported().values()) == [{16: 0.5625, 32: 0.53125, 64: 0.515625}] * 4


def test_a_loss_that_is_not_finite_is_left_to_the_trial(trainer: Trainer, tiny_study: Any) -> None:
    trainer.plan = planned(tiny_study, pruning={"rule": "threshold", "options": {"upper": 10.0}}, seeds=[0])
    trainer.loss = lambda config, images: float("nan")  # type: ignore[method-assign]
    assert trainer.run().counts == {"done": 4}


def test_a_real_cell_that_is_given_up_ends_after_the_next_step_and_stays_pruned(lab: Lab, tiny_study: Any) -> None:
    study, base = tiny_study(
        seeds=[0], axes={"size": {DIM: [8]}}, pruning={"rule": "threshold", "options": {"upper": 1e-6}}
    )
    base["trainer"] |= {"max_images": 128, "val_every_images": 32}
    real = Lab(make_plan(study, base), lab.runs)
    real.launcher = lambda: in_this_process(ResourcesConfig())  # type: ignore[method-assign]
    assert real.run().counts == {"pruned": 1}
    result = real.record(0)["result"]
    assert (result["status"], result["steps"], result["images_seen"]) == ("pruned", 3, 48)
    assert result["error"].startswith("given up at 32 images by threshold: val/loss_ema ")
    assert real.run().counts == {"pruned": 1}


@pytest.mark.parametrize(
    ("pruning", "others", "sentence"),
    [
        ({"rule": "mean"}, {}, r"study\.pruning\.rule='mean': input should be 'median', .* or 'racing'"),
        ({"rule": "median", "options": {"n": 1}}, {}, r"options\.n is not a parameter of rule=median, which has n_st"),
        ({"rule": "median", "options": {"n_startup_trials": "4"}}, {}, r"options\.n_startup_trials='4' is not of the"),
        ({"rule": "median", "options": {"interval_steps": 0}}, {}, r"interval steps must be at least 1"),
        ({"rule": "percentile"}, {}, r"rule=percentile needs percentile"),
        ({"rule": "threshold"}, {}, r"rule=threshold needs lower, upper or both"),
        ({"rule": "patient", "options": {"patience": 1, "wrapped_pruner": "median"}}, {}, r"needs \{rule: NAME"),
        ({"rule": "hyperband", "options": {"min_resource": 8, "max_resource": 4}}, {}, r"1 <= min_resource <= max_res"),
        ({"rule": "successive_halving", "options": {"min_resource": 0}}, {}, r"min_resource` is 0"),
        ({"rule": "racing", "options": {"block": 1}}, {}, r"one seed has no interval"),
        ({"rule": "racing", "options": {"level": 1.0}}, {}, r"options\.level=1\.0: input should be less than 1"),
        ({"rule": "racing", "options": {"blocks": 3}}, {}, r"options\.blocks is not a field"),
        ({"rule": "racing"}, {"seeds": [0, 1, 2]}, r"3 seeds are at most one block of 3"),
        ({"rule": "median"}, {"rounding": {"threads": 2}}, r"pruning and rounding do not go together"),
        (
            {"rule": "median"},
            {
                "primary": {"axis": "normalization", "treatment": "subtraction", "baseline": "division"},
                "until": {"primary": "resolved", "max_seeds": 8},
            },
            r"pruning\.rule=median and until do not go together",
        ),
    ],
)
def test_a_wrong_rule_is_refused_in_one_sentence(
    pruning: dict[str, Any], others: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        from_dict(StudyConfig, {**STUDY, "name": "tiny", "pruning": pruning, **others}, within="study")
    assert "\n" not in str(refused.value)
