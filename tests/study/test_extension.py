"""A study that goes on with the cells of another one trains nothing twice, and has the numbers of one training."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lina_lab.config import TrialConfig, from_dict
from lina_lab.records.result import Progress, TrialResult
from lina_lab.study.grid import Plan, make_plan
from lina_lab.study.lineage import own_flops
from lina_lab.study.plan import describe
from lina_lab.training.trial import run_trial
from tests.study.conftest import Lab, workspace_at


class TrainingLab(Lab):
    """A study with the real trainer, which counts the steps that it takes."""

    steps: list[int]

    def launcher(self) -> Any:
        self.steps = []

        def launch(config: TrialConfig, folder: Path, *, tracking: Any, report: Any) -> TrialResult:
            def counted(progress: Progress) -> None:
                if progress.step not in self.steps[-1:]:  # a validation is reported too
                    self.steps.append(progress.step)
                report(progress)

            return run_trial(config, folder, report=counted)

        return nullcontext(launch)


@pytest.fixture
def training(lab: Lab) -> TrainingLab:
    return TrainingLab(plan=lab.plan, runs=lab.runs)


def plan_of(lab: Lab, tiny_study: Any, images: int, **changes: Any) -> Plan:
    study, base = tiny_study(**{"axes": {"size": {"model.dim": [8]}}, **changes})
    base["trainer"]["max_images"] = images
    return make_plan(study, base, runs=lab.runs)


def metrics(lab: Lab) -> dict[str, float]:
    return {name: value for name, value in lab.record(0)["result"]["metrics"].items() if "loss" in name}


def test_an_extended_cell_trains_the_rest_alone_and_ends_as_one_that_was_never_interrupted(
    training: TrainingLab, tiny_study: Any
) -> None:
    training.plan = plan_of(training, tiny_study, 128, name="whole")
    training.run()
    whole = metrics(training)
    training.plan = plan_of(training, tiny_study, 48)
    training.run()
    assert len(training.steps) == 3
    training.plan = plan_of(training, tiny_study, 128, name="longer", extends="tiny")
    assert training.run().counts == {"done": 1}
    assert training.steps == [4, 5, 6, 7, 8]
    assert metrics(training) == whole
    assert training.run().counts == {"done": 1}
    cell = training.plan.cells[0]
    assert own_flops(cell) / own_flops(replace(cell, images_before=0)) == pytest.approx(80 / 128)
    # Once more: the extended study is extended.
    training.plan = plan_of(training, tiny_study, 160, name="longest", extends="longer")
    training.run()
    assert training.steps == [9, 10]


def test_a_cell_that_the_other_study_lacks_is_trained_from_its_start(training: TrainingLab, tiny_study: Any) -> None:
    training.plan = plan_of(training, tiny_study, 32)
    training.run()
    training.plan = plan_of(training, tiny_study, 64, name="longer", extends="tiny", seeds=[0, 1])
    goes_on = [cell.config.start.state == "training" for cell in training.plan.cells]
    assert goes_on == [True, False]
    assert "1 of 2 cells go on with those of tiny" in describe(workspace_at(training.runs, training.plan))
    training.run()
    assert sorted(training.steps) == [1, 2, 3, 3, 4, 4]


def test_cooldowns_branch_off_the_longest_trunk_that_fits(training: TrainingLab, tiny_study: Any) -> None:
    for images, name, extends in ((64, "tiny", None), (128, "longer", "tiny")):
        training.plan = plan_of(training, tiny_study, images, name=name, extends=extends)
        training.run()
    study, base = tiny_study(axes={"size": {"model.dim": [8]}}, name="cooled", extends="tiny")
    base["trainer"]["max_images"], base["optimizer"] = 80, {**base["optimizer"], "schedule": "wsd", "cooldown": 0.2}
    training.plan = make_plan(study, base, runs=training.runs)
    assert training.run().counts == {"done": 1}
    assert training.steps == [5]
    base["optimizer"]["cooldown"] = 0.6
    with pytest.raises(ValueError, match=r"extends=tiny: \w+ cannot be extended: .* lowers it from 32 images on$"):
        make_plan(replace(study, name="early"), base, runs=training.runs)


def test_a_source_that_is_named_is_not_in_the_flops_of_what_goes_on_with_it(
    training: TrainingLab, tiny_study: Any
) -> None:
    training.plan = plan_of(training, tiny_study, 32)
    training.run()
    folder = training.runs / "tiny" / training.plan.cells[0].config_hash
    for source in (folder, max(folder.glob("step-*.ckpt"))):
        study, base = tiny_study(axes={"size": {"model.dim": [8]}}, name="longer")
        base["trainer"]["max_images"] = 64
        base["start"] |= {"source": str(source), "state": "training"}
        (cell,) = make_plan(study, base, runs=training.runs).cells
        assert cell.images_before == 32
        assert own_flops(cell) == own_flops(training.plan.cells[0])


def test_what_is_measured_may_change_and_what_is_trained_may_not(training: TrainingLab, tiny_study: Any) -> None:
    training.plan = plan_of(training, tiny_study, 32)
    training.run()
    study, base = tiny_study(axes={"size": {"model.dim": [8]}}, name="longer", extends="tiny")
    base["trainer"] |= {"max_images": 64, "val_every_images": 16}
    base["sampling"] |= {"images_per_class": 0}
    assert make_plan(study, base, runs=training.runs).cells[0].images_before == 32
    base["optimizer"]["warmup_images"] = 16
    with pytest.raises(ValueError, match=r"differ in more than the budget: optimizer\.warmup_images was 0 and is 16"):
        make_plan(study, base, runs=training.runs)


BAD = [
    ({"extends": "nothing"}, 64, "study.extends=nothing: there is no such study in"),
    ({"extends": "tiny", "name": "longer"}, 32, "has seen 32 images, and trainer.max_images=32 asks for no more"),
    ({"extends": "tiny"}, 64, "extends=tiny is the study itself"),
    ({"extends": "other", "rounding": {"threads": 2}}, 64, "extends and rounding do not go together"),
]


@pytest.mark.parametrize(("changes", "images", "sentence"), BAD, ids=[sentence for *_, sentence in BAD])
def test_an_extension_that_cannot_be_is_refused_with_a_sentence(
    changes: dict[str, Any], images: int, sentence: str, training: TrainingLab, tiny_study: Any
) -> None:
    training.plan = plan_of(training, tiny_study, 32)
    training.run()
    with pytest.raises(ValueError, match=sentence):
        plan_of(training, tiny_study, images, **changes)


def test_weights_that_are_named_are_known_by_their_hash_and_not_by_their_place(
    training: TrainingLab, tiny_study: Any, tmp_path: Path
) -> None:
    training.plan = plan_of(training, tiny_study, 32)
    training.run()
    here = training.runs / "tiny" / training.plan.cells[0].config_hash
    hashes = set()
    for _ in range(2):
        study, base = tiny_study(axes={"size": {"model.dim": [8]}}, name="fine")
        base["start"]["source"] = str(here)
        plan = make_plan(study, base)
        hashes.add(plan.cells[0].config_hash)
        here = here.rename(tmp_path / "elsewhere")
    assert len(hashes) == 1
    varied = from_dict(
        type(study),
        {"name": "v", "question": "?", "size_axis": "size", "seeds": [0]}
        | {"axes": {"size": {"model.dim": [8]}, "start": {"start.source": [None, str(here)]}}},
    )
    plan = make_plan(varied, tiny_study()[1])
    assert [cell.config.start.sha256 is None for cell in plan.cells] == [True, False]
